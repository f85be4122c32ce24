// Attention of a tile of query rows that share keys and values, with the softmax built up block by block of keys
// (Milakov and Gimelshein 2018, arXiv:1805.02867), so that scores never leave the first-level cache.
#pragma once

#include "unpack.h"

namespace polyllama {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// What queries and probabilities look like to the products: floats, and pairs of bf16 for a cache of bf16.
struct Rows {
    const float* floats;
    const uint16_t* pairs;
    size_t stride, pair_stride;
    Rows from(size_t row) const { return {floats + row * stride, pairs + row * pair_stride, stride, pair_stride}; }
};

// sums[r] += two neighbouring values of every lane times two of row r, at index i.
template <size_t N, class V>
inline void add_pairs(Floats* sums, const uint16_t* at, const Rows& rows, size_t i) {
    if constexpr (V::bf16_dot) {
#pragma GCC unroll 16
        for (size_t r = 0; r < N; ++r) sums[r] = V::dot_bf16(sums[r], at, rows.pairs + r * rows.pair_stride + i);
    } else {
        Floats even, odd;
        V::load_pairs(at, even, odd);
#pragma GCC unroll 16
        for (size_t r = 0; r < N; ++r) {
            const float* x = rows.floats + r * rows.stride + i;
            sums[r] = V::fma(odd, V::set1(x[1]), V::fma(even, V::set1(x[0]), sums[r]));
        }
    }
}

// Scores of N queries and 16 keys: a lane is a key, so nothing is summed across lanes.
template <size_t N, Element E>
void score_keys(const CacheRow& cache, size_t slot, const Rows& queries, float* scores) {
    constexpr size_t size = E == Element::f32 ? 4 : E == Element::i8 ? 1 : 2;
    constexpr size_t step = E == Element::bf16 ? 2 : 1;  // components at a time
    const size_t offset = slot * cache.key_stride;
    // Few rows leave no time to fetch: meanwhile the tile's values are asked for, and the next tile's keys.
    auto ask = [&](size_t part, size_t d) {
        if (N > 8 || part || d * kKeys * size % kLine) return;
        ask_for(cache.keys + (offset + d * kKeys) * size, kTileKeys * cache.key_stride * size);
        ask_for(cache.values + (slot * cache.value_stride + d * kKeys) * size, 0);
    };
    for (size_t part = 0; part < kParts; ++part) {
        Floats sums[N];
#pragma GCC unroll 16
        for (size_t r = 0; r < N; ++r) sums[r] = Vector::zero();
        if constexpr (E == Element::bf16) {
            const uint16_t* keys = reinterpret_cast<const uint16_t*>(cache.keys) + offset + part * 2 * kLanes;
            for (size_t d = 0; d < cache.key_stride; d += step) {
                ask(part, d);
                add_pairs<N, Vector>(sums, keys + d * kKeys, queries, d);
            }
        } else {
            for (size_t d = 0; d < cache.head_dim; d += step) {
                ask(part, d);
                const Floats keys = load_as(E, cache.keys, offset + d * kKeys + part * kLanes);
#pragma GCC unroll 16
                for (size_t r = 0; r < N; ++r) {
                    sums[r] = Vector::fma(keys, Vector::set1(queries.floats[r * queries.stride + d]), sums[r]);
                }
            }
        }
        if constexpr (E == Element::i8) {
            const Floats scale = Vector::load(cache.key_scales + slot + part * kLanes);
#pragma GCC unroll 16
            for (size_t r = 0; r < N; ++r) sums[r] = Vector::mul(sums[r], scale);
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < N; ++r) Vector::store(scores + r * kTileKeys + part * kLanes, sums[r]);
    }
}

// sums[r] += p[r][key] * value[key], a register's width of the values at a time. `slot` is even; where `count` is not,
// the row's next probability is 0.
template <size_t N, Element E>
void mix_values(const CacheRow& cache, size_t slot, size_t count, const Rows& p, float* sums) {
    const size_t width = cache.value_stride;
    for (size_t d = 0; d < width; d += kLanes) {
        Floats y[N];
#pragma GCC unroll 16
        for (size_t r = 0; r < N; ++r) y[r] = Vector::load(sums + r * width + d);
        if constexpr (E == Element::bf16) {
            const uint16_t* values = reinterpret_cast<const uint16_t*>(cache.values) + slot * width + 2 * d;
            for (size_t key = 0; key < count; key += 2) add_pairs<N, Vector>(y, values + key * width, p, key);
        } else {
            for (size_t key = 0; key < count; ++key) {
                const Floats value = load_as(E, cache.values, (slot + key) * width + d);
#pragma GCC unroll 16
                for (size_t r = 0; r < N; ++r) {
                    y[r] = Vector::fma(value, Vector::set1(p.floats[r * p.stride + key]), y[r]);
                }
            }
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < N; ++r) Vector::store(sums + r * width + d, y[r]);
    }
}

// Powers of two, largest first: 5 rows are 4 and 1.
template <size_t N, class F>
inline void in_powers(size_t row, size_t rows, F& f) {
    for (; rows - row >= N; row += N) f.template run<N>(row);
    if constexpr (N > 1) in_powers<N / 2>(row, rows, f);
}

template <Element E>
struct Scores {
    const CacheRow& cache;
    size_t slot, count;
    const Rows& queries;
    float* scores;
    template <size_t N>
    void run(size_t row) {
        for (size_t key = 0; key < count; key += kKeys) {
            score_keys<N, E>(cache, slot + key, queries.from(row), scores + row * kTileKeys + key);
        }
    }
};

template <Element E>
struct Values {
    const CacheRow& cache;
    size_t slot, count;
    const Rows& p;
    float* sums;
    template <size_t N>
    void run(size_t row) { mix_values<N, E>(cache, slot, count, p.from(row), sums + row * cache.value_stride); }
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
        const Floats p = V::max(V::zero(), V::sub(e, V::set1(2e-38f)));
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
    uint16_t* score_pairs = reinterpret_cast<uint16_t*>(scores + kTileRows * kTileKeys);
    uint16_t* query_pairs = reinterpret_cast<uint16_t*>(sums + tile.rows * width);
    constexpr bool pairs = E == Element::bf16 && Vector::bf16_dot;
    const Rows queries{tile.queries, query_pairs, cache.key_stride, cache.key_stride};
    const Rows p{scores, score_pairs, kTileKeys, kTileKeys};
    if (pairs) to_bf16(tile.queries, tile.rows * cache.key_stride, query_pairs);
    Softmax state[kTileRows];
    for (size_t r = 0; r < tile.rows; ++r) state[r] = {kMinusInfinity, 0.0f};
    for (size_t i = 0; i < tile.rows * width; ++i) sums[i] = 0.0f;
    for (size_t slot = 0; slot < tile.keys; slot += kTileKeys) {
        const size_t left = tile.keys - slot, used = left < kTileKeys ? left : kTileKeys;
        const size_t count = (used + kKeys - 1) / kKeys * kKeys;  // the cache has whole blocks
        Scores<E> score{cache, slot, count, queries, scores};
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
        if (pairs) to_bf16(scores, (tile.rows - 1) * kTileKeys + count, score_pairs);
        Values<E> mix{cache, slot, used, p, sums};
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

// The largest size there is; no number where one of them is infinite or no number, as int8 has neither.
inline float largest_of(const float* x, size_t n) {
    float top = 0.0f, nothing = 0.0f;
    for (size_t i = 0; i < n; ++i) {
        const float size = x[i] < 0 ? -x[i] : x[i];
        top = size > top ? size : top;
        nothing += 0.0f * x[i];
    }
    return top + nothing;
}

// A vector into `to`, element i at place(i), rounded to E; the scale that int8 needs comes back.
template <Element E, class Place>
float store_vector(const float* x, size_t n, uint8_t* to, Place place) {
    const float top = E == Element::i8 ? largest_of(x, n) : 0.0f;
    const float inverse = top > 1e-36f ? 127.0f / top : 0.0f;
    for (size_t i = 0; i < n; i += kLanes) {
        float values[kLanes] = {};
        const size_t some = n - i < kLanes ? n - i : kLanes;
        for (size_t j = 0; j < some; ++j) values[j] = x[i + j];
        const Floats wide = Vector::load(values);
        if constexpr (E == Element::f32) {
            for (size_t j = 0; j < some; ++j) reinterpret_cast<float*>(to)[place(i + j)] = values[j];
        } else if constexpr (E == Element::i8) {
            int8_t rounded[kLanes];
            Vector::store_i8(rounded, Vector::nearest(Vector::mul(wide, Vector::set1(inverse))));
            for (size_t j = 0; j < some; ++j) reinterpret_cast<int8_t*>(to)[place(i + j)] = rounded[j];
        } else {
            uint16_t rounded[kLanes];
            E == Element::bf16 ? Vector::store_bf16(rounded, wide) : Vector::store_f16(rounded, wide);
            for (size_t j = 0; j < some; ++j) reinterpret_cast<uint16_t*>(to)[place(i + j)] = rounded[j];
        }
    }
    return top / 127.0f;
}

template <Element E>
void store_pair(const CacheRow& cache, size_t slot, const float* key, const float* value) {
    const size_t dim = cache.head_dim, block = slot / kKeys * kKeys * cache.key_stride, lane = slot % kKeys;
    const size_t width = cache.value_stride;
    const float key_scale = store_vector<E>(key, dim, cache.keys, [&](size_t d) {
        if constexpr (E == Element::bf16) return block + d / 2 * 2 * kKeys + 2 * lane + d % 2;
        return block + d * kKeys + lane;
    });
    const float value_scale = store_vector<E>(value, dim, cache.values, [&](size_t d) {
        if constexpr (E == Element::bf16) return slot / 2 * 2 * width + 2 * d + slot % 2;
        return slot * width + d;
    });
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
