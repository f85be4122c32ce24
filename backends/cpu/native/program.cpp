#include "program.h"

#include <algorithm>
#include <stdexcept>

#include "running.h"

namespace polyllama {
namespace {

// Far beyond any model, and small enough that no product of them leaves 64 bits.
constexpr size_t kMostWidth = size_t{1} << 26, kMostRows = size_t{1} << 31;

}  // namespace

Program::Program(const Kernels& kernels, size_t threads, bool integer_inputs)
    : kernels_(kernels), threads_(threads), integer_inputs_(integer_inputs) {}

void Program::building() const {
    if (sealed_) throw std::invalid_argument("a program that has run is not added to");
}

size_t Program::buffer(size_t width) {
    building();
    if (!width || width > kMostWidth) throw std::invalid_argument("a buffer of no width, or of too much");
    widths_.push_back(width);
    return widths_.size() - 1;
}

size_t Program::rope(size_t half, float factor) {
    building();
    if (half > kMostWidth) throw std::invalid_argument("a rope of too many components");
    ropes_.push_back({half, factor});
    return ropes_.size() - 1;
}

void Program::set_table(const Table& table) {
    building();
    if (widths_.empty() || table.width != widths_[0]) throw std::invalid_argument("an embedding of another width");
    table_ = table;
}

void Program::want(size_t buffer, size_t width, const char* what) const {
    if (buffer >= widths_.size() || widths_[buffer] != width) {
        throw std::invalid_argument(std::string(what) + ": a buffer that is not there or of another width");
    }
}

size_t Program::add(Operation operation) {
    building();
    for (const Matrix* m : operation.matrices) {
        uses_.bf16 |= m->format == Format::bf16 && kernels_.bf16_dot;
        if (m->group && integer_inputs_) uses_.q8[group_index(m->group)] = true;
    }
    operations_.push_back(std::move(operation));
    return operations_.size() - 1;
}

size_t Program::linear(size_t input, const float* norm, float eps, std::vector<const Matrix*> matrices,
                       std::vector<size_t> outputs, bool add_to) {
    if (matrices.empty() || matrices.size() != outputs.size()) throw std::invalid_argument("linear: one output a matrix");
    for (size_t i = 0; i < matrices.size(); ++i) {
        want(input, matrices[i]->columns, "linear: input");
        want(outputs[i], matrices[i]->rows, "linear: output");
        if (outputs[i] == input) throw std::invalid_argument("linear: output is input");
        for (size_t j = 0; j < i; ++j) {
            if (outputs[i] == outputs[j]) throw std::invalid_argument("linear: two matrices write one output");
        }
    }
    Operation op{Kind::linear};
    op.input = input, op.norm = norm, op.eps = eps, op.add = add_to;
    op.matrices = std::move(matrices), op.outputs = std::move(outputs);
    return add(std::move(op));
}

size_t Program::gated(size_t input, const float* norm, float eps, const Matrix* gate, const Matrix* up, size_t output,
                      Activation activation) {
    want(input, gate->columns, "gated: input");
    want(input, up->columns, "gated: input");
    want(output, gate->rows, "gated: output");
    want(output, up->rows, "gated: output");
    if (output == input) throw std::invalid_argument("gated: output is input");
    Operation op{Kind::gated};
    op.input = input, op.norm = norm, op.eps = eps, op.output = output, op.activation = activation;
    op.matrices = {gate, up};
    return add(std::move(op));
}

size_t Program::attention(size_t q, size_t k, size_t v, size_t output, size_t layer, size_t heads, size_t kv_heads,
                          size_t head_dim, size_t rope) {
    if (heads > kMostWidth || kv_heads > kMostWidth || head_dim > kMostWidth) {
        throw std::invalid_argument("attention: too many heads, or too wide ones");
    }
    want(q, heads * head_dim, "attention: queries");
    want(k, kv_heads * head_dim, "attention: keys");
    want(v, kv_heads * head_dim, "attention: values");
    want(output, heads * head_dim, "attention: output");
    if (!kv_heads || !head_dim || heads % kv_heads || rope >= ropes_.size() || 2 * ropes_[rope].half > head_dim) {
        throw std::invalid_argument("attention: heads, groups and rope do not fit");
    }
    if (q == k || q == v || k == v || output == q || output == k || output == v) {
        throw std::invalid_argument("attention: queries, keys, values and output share a buffer");
    }
    Operation op{Kind::attention};
    op.input = q, op.k = k, op.v = v, op.output = output, op.layer = layer;
    op.heads = heads, op.kv_heads = kv_heads, op.head_dim = head_dim, op.rope = rope;
    return add(std::move(op));
}

size_t Program::norm(size_t input, size_t output, const float* weight, float eps, bool round) {
    want(input, widths_.at(0), "norm: input");
    want(output, widths_.at(0), "norm: output");
    Operation op{Kind::norm};
    op.input = input, op.output = output, op.norm = weight, op.eps = eps, op.round = round;
    return add(std::move(op));
}

size_t Program::capture(size_t input) {
    want(input, widths_.at(0), "capture");
    Operation op{Kind::capture};
    op.input = input, op.layer = captures_++;
    return add(std::move(op));
}

size_t Program::head(size_t input, const Matrix* matrix) {
    want(input, matrix->columns, "head: input");
    Operation op{Kind::head};
    op.input = input, op.matrices = {matrix};
    return add(std::move(op));
}

size_t Program::weight_bytes() const {
    size_t bytes = 0;
    for (const Operation& op : operations_) {
        for (const Matrix* m : op.matrices) bytes += m->panels * m->bytes_panel;
    }
    return bytes;
}

std::string Program::check(const Pass& p) const {
    if (p.first > p.last || p.last > operations_.size()) return "operations that are not there";
    if (!p.batch || !p.length) return "no rows";
    if (p.length > kMostRows || p.batch > kMostRows / p.length || p.kept_count > kMostRows) return "too many rows";
    if (p.past > kMostRows) return "more tokens than any cache holds";
    if ((p.ids == nullptr) == (p.embeds == nullptr)) return "either ids or embeddings are wanted";
    if (p.ids) {
        if (!table_.rows) return "ids, and no embedding";
        for (size_t i = 0; i < p.batch * p.length; ++i) {
            if (p.ids[i] < 0 || static_cast<size_t>(p.ids[i]) >= table_.rows) return "an id outside the vocabulary";
        }
    }
    if (!p.positions || (p.positions_rows != 1 && p.positions_rows != p.batch)) return "positions of another batch";
    if (p.mask && p.mask_rows != 1 && p.mask_rows != p.batch) return "a mask of another batch";
    if (p.frequencies.size() != ropes_.size() || p.frequency_rows.size() != ropes_.size()) return "frequencies missing";
    for (size_t rows : p.frequency_rows) {
        if (rows != 1 && rows != p.batch) return "frequencies of another batch";
    }
    for (size_t i = p.first; i < p.last; ++i) {
        const Operation& op = operations_[i];
        const CacheStorage& c = p.cache;
        if (op.kind == Kind::attention &&
            (op.layer >= c.layers || p.batch != c.batch || op.kv_heads != c.heads || op.head_dim != c.head_dim ||
             p.past + p.length > c.capacity || c.capacity % kKeys || !c.keys || !c.values ||
             (c.element == Element::i8 && (!c.key_scales || !c.value_scales)))) {
            return "a cache of another shape";
        }
        if (op.kind == Kind::head) {
            if (!p.logits || !p.kept) return "no place for logits";
            if (p.logits_stride < op.matrices[0]->panels * kPanel) return "rows of logits that are too short";
            for (size_t k = 0; k < p.kept_count; ++k) {
                if (p.kept[k] < 0 || static_cast<size_t>(p.kept[k]) >= p.batch * p.length) return "a kept row outside";
            }
        }
    }
    return "";
}

Program::~Program() = default;

}  // namespace polyllama
