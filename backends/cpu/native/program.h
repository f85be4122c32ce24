// A flat program over planned buffers, and a pass through it. Whoever builds it has checked the shapes; the methods that
// add operations check them again, so that no pass can leave its memory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "activations.h"
#include "formats.h"
#include "pool.h"

namespace polyllama {

// Where the embedding's rows come from: a matrix in panels (a tied head's), rows of floats, or rows of packed words.
struct Table {
    size_t rows = 0, width = 0;
    const Matrix* panels = nullptr;
    Element element = Element::f32;
    const void* floats = nullptr;
    size_t bits = 0, group = 0;  // packed words where bits is not 0; `element` is then that of scales and biases
    const uint32_t* words = nullptr;
    const void* scales = nullptr;
    const void* biases = nullptr;
};

// Keys and values of all attentions: [layers][batch][kv heads][capacity ...], see CacheRow.
struct CacheStorage {
    Element element = Element::f32;
    uint8_t* keys = nullptr;
    uint8_t* values = nullptr;
    float* key_scales = nullptr;
    float* value_scales = nullptr;
    size_t layers = 0, batch = 0, heads = 0, capacity = 0, head_dim = 0;

    CacheRow row(size_t layer, size_t b, size_t head) const {
        const size_t at = (layer * batch + b) * heads + head, size = element_size(element);
        const size_t key = key_stride(element, head_dim), stride = round_up(head_dim, kKeys);
        return {element, keys + at * capacity * key * size, values + at * capacity * stride * size,
                key_scales ? key_scales + at * capacity : nullptr, value_scales ? value_scales + at * capacity : nullptr,
                head_dim, key, stride};
    }
};

// The inputs and outputs of one pass. T = batch * length rows.
struct Pass {
    size_t first = 0, last = 0;         // operations to run
    size_t batch = 1, length = 1, past = 0;
    const int64_t* ids = nullptr;       // [T], where the embedding is part of the pass
    const float* embeds = nullptr;      // [T][E], where it is not
    const int64_t* positions = nullptr; // [batch or 1][length]
    size_t positions_rows = 1;
    std::vector<const float*> frequencies;  // per rope [batch or 1][half]
    std::vector<size_t> frequency_rows;
    const uint8_t* mask = nullptr;      // [batch or 1][length][past + length]
    size_t mask_rows = 1;
    CacheStorage cache;
    float* captured = nullptr;          // [captures][T][E]
    float* hidden = nullptr;            // [T][width], what is in hidden_buffer at the end
    size_t hidden_buffer = 0;
    const int64_t* kept = nullptr;      // rows that the head is run for
    size_t kept_count = 0;
    float* logits = nullptr;            // [kept][logits_stride]
    size_t logits_stride = 0;
    std::function<bool()> interrupted;  // asked now and then by the calling thread
};

class Program {
   public:
    Program(const Kernels& kernels, size_t threads, bool integer_inputs);
    ~Program();

    // Building ends where running begins: the memory of a pass is planned by what is there then.
    void seal() { sealed_ = true; }

    size_t buffer(size_t width);
    size_t rope(size_t half, float factor);
    void set_table(const Table& table);
    // Each returns the number of its operation.
    size_t linear(size_t input, const float* norm, float eps, std::vector<const Matrix*> matrices,
                  std::vector<size_t> outputs, bool add);
    size_t gated(size_t input, const float* norm, float eps, const Matrix* gate, const Matrix* up, size_t output,
                 Activation activation);
    size_t attention(size_t q, size_t k, size_t v, size_t output, size_t layer, size_t heads, size_t kv_heads,
                     size_t head_dim, size_t rope);
    size_t norm(size_t input, size_t output, const float* weight, float eps, bool round);
    size_t capture(size_t input);  // as the next hidden state
    size_t head(size_t input, const Matrix* matrix);

    // False when it was interrupted; what it wrote is then to be thrown away.
    bool run(const Pass& pass);

    // A product of its own: y[rows][stride] from x[rows][columns].
    void product(const Matrix& m, const float* x, size_t rows, float* y, size_t stride);

    // Read every byte of the weights as a pass does, and do nothing with them: what memory gives.
    uint64_t read_weights();

    size_t operations() const { return operations_.size(); }
    size_t width(size_t buffer) const { return widths_.at(buffer); }
    size_t rope_half(size_t rope) const { return ropes_.at(rope).half; }
    size_t captures() const { return captures_; }
    size_t threads() const { return threads_; }
    const Kernels& kernels() const { return kernels_; }
    const Table& table() const { return table_; }
    size_t weight_bytes() const;
    std::string check(const Pass& pass) const;  // what is wrong with a pass; empty when nothing

   private:
    enum class Kind { linear, gated, attention, norm, capture, head };
    struct Operation {
        Kind kind;
        size_t input = 0, output = 0;
        std::vector<const Matrix*> matrices;
        std::vector<size_t> outputs;
        const float* norm = nullptr;
        float eps = 0;
        bool add = false, round = false;
        Activation activation = Activation::silu;
        size_t k = 0, v = 0, layer = 0, heads = 0, kv_heads = 0, head_dim = 0, rope = 0;
    };
    struct Rope {
        size_t half;
        float factor;
    };
    // Which forms of inputs the program's matrices take.
    struct Uses {
        bool bf16 = false, q8[3] = {};
    };
    struct Forms;
    struct Running;

    void building() const;
    size_t add(Operation operation);
    void want(size_t buffer, size_t width, const char* what) const;
    Inputs inputs(const Running& r, const Operation& op, const Matrix& m, const Forms& forms) const;
    void prepare(const Operation& op, const float* x, Forms& forms, size_t row) const;
    Forms* prepared(Running& r, const Operation& op, size_t rows, size_t thread) const;
    void execute(Running& r, size_t thread) const;
    bool begin(Running& r) const;
    bool perform(Running& r, const Operation& op, size_t thread) const;
    bool linear(Running& r, const Operation& op, size_t thread) const;
    bool gated(Running& r, const Operation& op, size_t thread) const;
    bool attend(Running& r, const Operation& op, size_t thread) const;
    bool each_row(Running& r, const Operation& op) const;
    void rotate(const Running& r, const Operation& op, float* head, size_t row, bool query) const;
    void rotate_and_store(const Running& r, const Operation& op, size_t row, size_t head) const;
    void attend_tile(Running& r, const Operation& op, size_t b, size_t head, size_t first, size_t last,
                     size_t thread) const;
    float* at(const Running& r, size_t buffer, size_t row) const;
    size_t stride(size_t buffer) const { return round_up(widths_[buffer], kPanel) + kPanel; }  // see Forms

    const Kernels& kernels_;
    const size_t threads_;
    const bool integer_inputs_;
    std::vector<size_t> widths_;
    std::vector<Rope> ropes_;
    std::vector<Operation> operations_;
    Table table_;
    size_t captures_ = 0;
    bool sealed_ = false;
    Uses uses_;
    PassLock one_;                     // a program runs one pass at a time
    std::unique_ptr<Running> memory_;  // of the last pass, kept for the next
};

}  // namespace polyllama
