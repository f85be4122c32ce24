// Attention of a tile of query rows that share keys and values, with the softmax built up block by block of keys
// (Milakov and Gimelshein 2018, arXiv:1805.02867), so that scores never leave the first-level cache.
#pragma once

#include "unpack.h"

namespace polyllama {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Scores of Rows queries and 16 keys: a lane is a key, so nothing is summed across lanes.
template <size_t Rows, Element E>
void score_keys(const CacheRow& cache, size_t slot, const float* queries, float* scores) {
    const size_t dim = cache.head_dim, offset = slot * dim;
    for (size_t part = 0; part < kParts; ++part) {
        Floats sums[Rows];
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r) sums[r] = Vector::zero();
        for (size_t d = 0; d < dim; ++d) {
            const Floats keys = load_as(E, cache.keys, offset + d * kKeys + part * kLanes);
#pragma GCC unroll 16
            for (size_t r = 0; r < Rows; ++r) {
                sums[r] = Vector::fma(keys, Vector::set1(queries[r * dim + d]), sums[r]);
            }
        }
        if constexpr (E == Element::i8) {
            const Floats scale = Vector::load(cache.key_scales + slot + part * kLanes);
#pragma GCC unroll 16
            for (size_t r = 0; r < Rows; ++r) sums[r] = Vector::mul(sums[r], scale);
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r) Vector::store(scores + r * kTileKeys + part * kLanes, sums[r]);
    }
}

// sums[r] += p[r][key] * value[key], a register's width of the values at a time.
template <size_t Rows, Element E>
void mix_values(const CacheRow& cache, size_t slot, size_t count, const float* p, float* sums) {
    const size_t width = cache.value_stride;
    for (size_t d = 0; d < width; d += kLanes) {
        Floats y[Rows];
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r) y[r] = Vector::load(sums + r * width + d);
        for (size_t key = 0; key < count; ++key) {
            const Floats value = load_as(E, cache.values, (slot + key) * width + d);
#pragma GCC unroll 16
            for (size_t r = 0; r < Rows; ++r) y[r] = Vector::fma(value, Vector::set1(p[r * kTileKeys + key]), y[r]);
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r) Vector::store(sums + r * width + d, y[r]);
    }
}

// Powers of two, largest first: 5 rows are 4 and 1.
template <size_t Rows, class F>
inline void in_powers(size_t row, size_t rows, F& f) {
    for (; rows - row >= Rows; row += Rows) f.template run<Rows>(row);
    if constexpr (Rows > 1) in_powers<Rows / 2>(row, rows, f);
}

template <Element E>
struct Scores {
    const CacheRow& cache;
    size_t slot, count;
    const float* queries;
    float* scores;
    template <size_t Rows>
    void run(size_t row) {
        for (size_t key = 0; key < count; key += kKeys) {
            score_keys<Rows, E>(cache, slot + key, queries + row * cache.head_dim, scores + row * kTileKeys + key);
        }
    }
};

template <Element E>
struct Values {
    const CacheRow& cache;
    size_t slot, count;
    const float* p;
    float* sums;
    template <size_t Rows>
    void run(size_t row) {
        mix_values<Rows, E>(cache, slot, count, p + row * kTileKeys, sums + row * cache.value_stride);
    }
};

// Running maximum and sum of a row's softmax.
struct Softmax {
    float top, sum;
};

// Turn a row's scores into probabilities up to a factor that all of the row's share; earlier sums are brought to it.
inline void soften(float* scores, size_t count, Softmax& state, float* sums, size_t width) {
    using V = Vector;
    Floats largest = V::load(scores);
    for (size_t i = kLanes; i < count; i += kLanes) largest = V::max(largest, V::load(scores + i));
    const float top = V::largest(largest);
    if (top > state.top) {
        if (state.sum > 0) {
            float factor[kLanes];
            V::store(factor, exponential(V::set1(state.top - top)));
            state.sum *= factor[0];
            for (size_t d = 0; d < width; d += kLanes) V::store(sums + d, V::mul(V::load(sums + d), V::set1(factor[0])));
        }
        state.top = top;
    }
    Floats total = V::zero();
    for (size_t i = 0; i < count; i += kLanes) {
        const Floats score = V::load(scores + i);
        // What may not be looked at is minus infinity, whose exponential here ends at 1.6e-38: less than that is zero.
        const Floats e = exponential(V::sub(score, V::set1(state.top)));
        const Floats p = V::max(V::sub(e, V::set1(2e-38f)), V::zero());
        V::store(scores + i, p);
        total = V::add(total, p);
    }
    state.sum += V::sum(total);
}

template <Element E>
void attend(const AttentionTile& tile) {
    const CacheRow& cache = tile.cache;
    const size_t width = cache.value_stride;
    float* scores = tile.scratch;
    float* sums = tile.scratch + kAttentionScratch;
    Softmax state[kTileRows];
    for (size_t r = 0; r < tile.rows; ++r) state[r] = {kMinusInfinity, 0.0f};
    for (size_t i = 0; i < tile.rows * width; ++i) sums[i] = 0.0f;
    for (size_t slot = 0; slot < tile.keys; slot += kTileKeys) {
        const size_t left = tile.keys - slot, used = left < kTileKeys ? left : kTileKeys;
        const size_t count = (used + kKeys - 1) / kKeys * kKeys;  // the cache has whole blocks
        Scores<E> score{cache, slot, count, tile.queries, scores};
        in_powers<Vector::attention_rows>(0, tile.rows, score);
        for (size_t r = 0; r < tile.rows; ++r) {
            float* row = scores + r * kTileKeys;
            size_t seen = count;
            if (tile.mask) {
                size_t any = 0;
                for (size_t i = 0; i < used; ++i) {
                    if (tile.mask[r][slot + i]) any = 1; else row[i] = kMinusInfinity;
                }
                for (size_t i = used; i < count; ++i) row[i] = kMinusInfinity;
                if (!any) seen = 0;
            } else {
                seen = tile.reach[r] <= slot ? 0 : tile.reach[r] - slot < count ? tile.reach[r] - slot : count;
                for (size_t i = seen; i < count; ++i) row[i] = kMinusInfinity;
            }
            if (seen == 0) {
                for (size_t i = 0; i < count; ++i) row[i] = 0.0f;
                continue;
            }
            soften(row, count, state[r], sums + r * width, width);
            if constexpr (E == Element::i8) {
                for (size_t i = 0; i < used; ++i) row[i] *= cache.value_scales[slot + i];
            }
        }
        Values<E> mix{cache, slot, used, scores, sums};
        in_powers<Vector::attention_rows>(0, tile.rows, mix);
    }
    for (size_t r = 0; r < tile.rows; ++r) {
        const float inverse = 1.0f / state[r].sum;
        for (size_t d = 0; d < cache.head_dim; ++d) tile.out[r][d] = sums[r * width + d] * inverse;
    }
}

void attention(const AttentionTile& tile) {
    switch (tile.cache.element) {
        case Element::f32: return attend<Element::f32>(tile);
        case Element::bf16: return attend<Element::bf16>(tile);
        case Element::f16: return attend<Element::f16>(tile);
        case Element::i8: return attend<Element::i8>(tile);
    }
}

inline float largest_of(const float* x, size_t n) {
    float top = 0.0f;
    for (size_t i = 0; i < n; ++i) {
        const float size = x[i] < 0 ? -x[i] : x[i];
        top = size > top ? size : top;
    }
    return top;
}

// A vector into `to`, element i at i * stride, rounded to E; the scale that int8 needs comes back.
template <Element E>
float store_vector(const float* x, size_t n, uint8_t* to, size_t stride) {
    const float top = E == Element::i8 ? largest_of(x, n) : 0.0f;
    const float inverse = top > 1e-36f ? 127.0f / top : 0.0f;
    for (size_t i = 0; i < n; i += kLanes) {
        float values[kLanes] = {};
        const size_t some = n - i < kLanes ? n - i : kLanes;
        for (size_t j = 0; j < some; ++j) values[j] = x[i + j];
        const Floats wide = Vector::load(values);
        if constexpr (E == Element::f32) {
            for (size_t j = 0; j < some; ++j) reinterpret_cast<float*>(to)[(i + j) * stride] = values[j];
        } else if constexpr (E == Element::i8) {
            int8_t rounded[kLanes];
            Vector::store_i8(rounded, Vector::nearest(Vector::mul(wide, Vector::set1(inverse))));
            for (size_t j = 0; j < some; ++j) reinterpret_cast<int8_t*>(to)[(i + j) * stride] = rounded[j];
        } else {
            uint16_t rounded[kLanes];
            E == Element::bf16 ? Vector::store_bf16(rounded, wide) : Vector::store_f16(rounded, wide);
            for (size_t j = 0; j < some; ++j) reinterpret_cast<uint16_t*>(to)[(i + j) * stride] = rounded[j];
        }
    }
    return top / 127.0f;
}

template <Element E>
void store_pair(const CacheRow& cache, size_t slot, const float* key, const float* value) {
    constexpr size_t size = E == Element::f32 ? 4 : E == Element::i8 ? 1 : 2;
    const size_t dim = cache.head_dim, block = slot / kKeys * kKeys;
    uint8_t* keys = cache.keys + (block * dim + slot % kKeys) * size;
    uint8_t* values = cache.values + slot * cache.value_stride * size;
    const float key_scale = store_vector<E>(key, dim, keys, kKeys);
    const float value_scale = store_vector<E>(value, dim, values, 1);
    if constexpr (E == Element::i8) cache.key_scales[slot] = key_scale, cache.value_scales[slot] = value_scale;
}

void store(const CacheRow& cache, size_t slot, const float* key, const float* value) {
    switch (cache.element) {
        case Element::f32: return store_pair<Element::f32>(cache, slot, key, value);
        case Element::bf16: return store_pair<Element::bf16>(cache, slot, key, value);
        case Element::f16: return store_pair<Element::f16>(cache, slot, key, value);
        case Element::i8: return store_pair<Element::i8>(cache, slot, key, value);
    }
}

}  // namespace
}  // namespace polyllama
