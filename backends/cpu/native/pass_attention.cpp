// The attention of a pass: turning queries and keys, putting keys and values into the cache, and tiles of queries.
#include <algorithm>
#include <cmath>

#include "running.h"

namespace polyllama {

void Program::rotate(const Running& r, const Operation& op, float* head, size_t row, bool query) const {
    const size_t half = ropes_[op.rope].half;
    const float *cos = r.cos[op.rope] + row * half, *sin = r.sin[op.rope] + row * half;
    for (size_t i = 0; i < half; ++i) {
        const float first = head[i], second = head[half + i];
        head[i] = first * cos[i] - second * sin[i];
        head[half + i] = second * cos[i] + first * sin[i];
    }
    if (query) {
        const float scale = 1.0f / std::sqrt(static_cast<float>(op.head_dim));
        for (size_t i = 0; i < op.head_dim; ++i) head[i] *= scale;
    }
}

// Key/value head `head` of a row, and the queries that read it: turned, and the key and value put into the cache.
void Program::rotate_and_store(const Running& r, const Operation& op, size_t row, size_t head) const {
    const size_t group = op.heads / op.kv_heads, b = row / r.pass->length, s = row % r.pass->length;
    float* key = at(r, op.k, row) + head * op.head_dim;
    for (size_t i = 0; i < group; ++i) rotate(r, op, at(r, op.input, row) + (head * group + i) * op.head_dim, row, true);
    rotate(r, op, key, row, false);
    kernels_.store(r.pass->cache.row(op.layer, b, head), r.pass->past + s, key, at(r, op.v, row) + head * op.head_dim);
}

// Queries first .. last of a key/value head, counted position by position and head by head.
void Program::attend_tile(Running& r, const Operation& op, size_t b, size_t head, size_t first, size_t last,
                          size_t thread) const {
    const Pass& pass = *r.pass;
    const size_t group = op.heads / op.kv_heads, dim = op.head_dim, keys = pass.past + pass.length;
    const size_t keys_width = key_stride(pass.cache.element, dim);
    float* queries = r.threads[thread].tile;
    size_t reach[kTileRows];
    const uint8_t* mask[kTileRows];
    float* out[kTileRows];
    for (size_t i = first; i < last; ++i) {
        const size_t s = i / group, row = b * pass.length + s, column = (head * group + i % group) * dim;
        float* query = queries + (i - first) * keys_width;
        std::copy_n(at(r, op.input, row) + column, dim, query);
        std::fill(query + dim, query + keys_width, 0.0f);
        reach[i - first] = pass.past + s + 1;
        mask[i - first] = pass.mask ? pass.mask + ((pass.mask_rows == 1 ? 0 : b) * pass.length + s) * keys : nullptr;
        out[i - first] = at(r, op.output, row) + column;
    }
    AttentionTile tile;
    tile.cache = pass.cache.row(op.layer, b, head);
    tile.rows = last - first;
    tile.keys = pass.mask ? keys : reach[tile.rows - 1];
    tile.queries = queries, tile.reach = reach, tile.mask = pass.mask ? mask : nullptr, tile.out = out;
    tile.scratch = queries + kTileRows * keys_width;
    kernels_.attention(tile);
}

bool Program::attend(Running& r, const Operation& op, size_t thread) const {
    const Pass& pass = *r.pass;
    const size_t group = op.heads / op.kv_heads, heads = pass.batch * op.kv_heads, each = pass.length * group;
    if (pass.length == 1 && heads >= r.team->threads()) {
        // A new token looks only at its own head's keys: whoever stores the key attends, with nothing to wait for.
        for (size_t task; (task = r.team->next(heads)) < heads;) {
            const size_t b = task / op.kv_heads, head = task % op.kv_heads;
            rotate_and_store(r, op, b, head);
            for (size_t i = 0; i < each; i += kTileRows) {
                attend_tile(r, op, b, head, i, std::min(i + kTileRows, each), thread);
            }
        }
        return r.team->barrier();
    }
    const size_t stores = r.rows * op.kv_heads;
    for (size_t task; (task = r.team->next(stores)) < stores;) {
        rotate_and_store(r, op, task / op.kv_heads, task % op.kv_heads);
    }
    if (!r.team->barrier()) return false;
    const size_t wanted = blocks(r.team->threads(), heads);  // tiles that each head should at least be cut into
    const size_t rows = std::max<size_t>(1, std::min(kTileRows, blocks(each, wanted)));
    const size_t tiles = blocks(each, rows), all = heads * tiles;
    for (size_t task; (task = r.team->next(all)) < all;) {
        const size_t tile = tiles - 1 - task / heads, head = task % heads;  // later ones have more keys: they go first
        attend_tile(r, op, head / op.kv_heads, head % op.kv_heads, tile * rows, std::min((tile + 1) * rows, each), thread);
    }
    return r.team->barrier();
}

}  // namespace polyllama
