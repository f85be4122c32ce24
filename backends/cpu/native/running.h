// The memory of a pass, kept for the next, and what the threads of a pass share.
#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "program.h"

namespace polyllama {

constexpr size_t blocks(size_t n, size_t size) { return (n + size - 1) / size; }

constexpr size_t kGroups[] = {32, 64, 128};
constexpr size_t group_index(size_t group) { return group == 32 ? 0 : group == 64 ? 1 : 2; }

// Memory that begins on a cache line and grows, never shrinks.
class Block {
   public:
    Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() { std::free(data_); }

    template <class T>
    T* get(size_t count) {
        const size_t bytes = round_up(count * sizeof(T) + kLine, kLine);
        if (bytes > size_) {
            std::free(data_);
            size_ = 0;
            data_ = std::aligned_alloc(kLine, bytes);
            if (!data_) throw std::bad_alloc();
            std::memset(data_, 0, bytes);  // what pads rows is then never a NaN
            size_ = bytes;
        }
        return static_cast<T*>(data_);
    }

   private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// A product's inputs in the forms its matrices take.
struct Program::Forms {
    Block blocks[2 + 3 * 3];
    float* normed = nullptr;
    uint16_t* bf16 = nullptr;
    int8_t* q8[3] = {};
    float* scale[3] = {};
    float* sum[3] = {};
    size_t stride = 0, bf16_stride = 0, q8_stride = 0, group_stride[3] = {};

    // Each row ends in an empty line: rows a power of two apart would fall on the same few places of the cache.
    void reserve(size_t rows, size_t width, const Uses& uses) {
        stride = round_up(width, kPanel) + kPanel;
        bf16_stride = round_up(width, 2 * kPanel) + 2 * kPanel;
        q8_stride = round_up(width, 4 * kPanel) + 4 * kPanel;
        normed = blocks[0].get<float>(rows * stride);
        if (uses.bf16) bf16 = blocks[1].get<uint16_t>(rows * bf16_stride);
        for (size_t i = 0; i < 3; ++i) {
            if (!uses.q8[i]) continue;
            group_stride[i] = width / kGroups[i] + 1;
            q8[i] = blocks[2 + 3 * i].get<int8_t>(rows * q8_stride);
            scale[i] = blocks[3 + 3 * i].get<float>(rows * group_stride[i]);
            sum[i] = blocks[4 + 3 * i].get<float>(rows * group_stride[i]);
        }
    }
};

struct Program::Running {
    struct Thread {
        Forms forms;
        Block scratch, attention;
        float* products = nullptr;
        float* tile = nullptr;
    };
    std::vector<Block> buffers, cosines, sines;
    std::vector<float*> data, cos, sin;
    Forms forms;
    std::vector<Thread> threads;
    const Pass* pass = nullptr;
    Team* team = nullptr;
    size_t rows = 0;
    std::chrono::steady_clock::time_point asked;
    bool finished = false, stopped = false;

    Running(size_t buffer_count, size_t ropes, size_t thread_count)
        : buffers(buffer_count), cosines(ropes), sines(ropes), data(buffer_count), cos(ropes), sin(ropes),
          threads(thread_count) {}
};

}  // namespace polyllama
