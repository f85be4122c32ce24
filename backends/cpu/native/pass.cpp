// A pass through a program: every thread runs the same operations, shares the tasks of each, and meets the others at a
// barrier after it.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "packing.h"
#include "running.h"

namespace polyllama {
namespace {

constexpr size_t kPrivateRows = 2;  // so few rows are prepared by every thread for itself, which saves a barrier
constexpr size_t kRowBlock = 256;   // rows of a task of a product
constexpr size_t kFewRows = 32;     // up to here a thread takes panels that lie side by side, so that they stream
constexpr size_t kGatedRows = 128;
constexpr size_t kPanels = 2;       // panels of a task of a product of many rows
constexpr size_t kRunPanels = 8;    // panels of a gated product of one row between two activations
constexpr auto kAskAfter = std::chrono::milliseconds(20);

void embed(const Table& table, size_t id, float* out) {
    if (table.panels) return read_row(*table.panels, id, out);
    if (!table.bits) {
        for (size_t i = 0; i < table.width; ++i) out[i] = to_float(table.element, table.floats, id * table.width + i);
        return;
    }
    uint8_t values[128];
    const size_t groups = table.width / table.group, words = table.width * table.bits / 32;
    for (size_t g = 0; g < groups; ++g, out += table.group) {
        read_values(table.words + id * words + g * table.group * table.bits / 32, table.bits, table.group, values);
        const float scale = to_float(table.element, table.scales, id * groups + g);
        const float bias = to_float(table.element, table.biases, id * groups + g);
        for (size_t i = 0; i < table.group; ++i) out[i] = scale * static_cast<float>(values[i]) + bias;
    }
}

}  // namespace

float* Program::at(const Running& r, size_t buffer, size_t row) const { return r.data[buffer] + row * stride(buffer); }

bool Program::run(const Pass& pass) {
    const std::string wrong = check(pass);
    if (!wrong.empty()) throw std::invalid_argument(wrong);
    if (one_.lock()) (void)memory_.release();  // half rewritten by a thread of the parent, so it is left alone
    struct Unlock {
        PassLock& lock;
        ~Unlock() { lock.unlock(); }
    } const unlock{one_};
    if (!memory_) memory_ = std::make_unique<Running>(widths_.size(), ropes_.size(), threads_);
    Running& r = *memory_;
    Team team(threads_);
    const size_t rows = pass.batch * pass.length;
    r.pass = &pass, r.team = &team, r.rows = rows, r.finished = r.stopped = false;
    r.asked = std::chrono::steady_clock::now();
    size_t widest = 0, head_dim = 0;
    for (size_t width : widths_) widest = std::max(widest, width);
    for (const Operation& op : operations_) head_dim = std::max(head_dim, op.head_dim);
    for (size_t i = 0; i < widths_.size(); ++i) r.data[i] = r.buffers[i].get<float>(rows * stride(i));
    for (size_t i = 0; i < ropes_.size(); ++i) {
        r.cos[i] = r.cosines[i].get<float>(rows * ropes_[i].half);
        r.sin[i] = r.sines[i].get<float>(rows * ropes_[i].half);
    }
    r.forms.reserve(std::max(rows, pass.kept_count), widest, uses_);
    for (auto& thread : r.threads) {
        thread.forms.reserve(kPrivateRows, widest, uses_);
        thread.products = thread.scratch.get<float>(kMatmulScratch + 2 * kGatedRows * kPanels * kPanel);
        thread.tile = thread.attention.get<float>(kAttentionScratch + 3 * kTileRows * round_up(head_dim, kPanel));
    }
    run_on_pool(threads_, [this, &r](size_t thread) { execute(r, thread); });
    return r.finished;
}

void Program::execute(Running& r, size_t thread) const {
    const Pass& pass = *r.pass;
    if (!begin(r)) return;
    for (size_t i = pass.first; i < pass.last; ++i) {
        if (thread == 0 && pass.interrupted) {
            const auto now = std::chrono::steady_clock::now();
            if (now - r.asked > kAskAfter) {
                r.asked = now;
                if (pass.interrupted()) r.team->stop(), r.stopped = true;
            }
        }
        if (!perform(r, operations_[i], thread)) return;
    }
    if (pass.hidden) {
        const size_t width = widths_[pass.hidden_buffer];
        for (size_t row; (row = r.team->next(r.rows)) < r.rows;) {
            std::copy_n(at(r, pass.hidden_buffer, row), width, pass.hidden + row * width);
        }
    }
    // Where the last operation had nothing to do, there was no barrier after it that would have told everybody.
    if (thread == 0) r.finished = !r.stopped;
}

bool Program::begin(Running& r) const {
    const Pass& pass = *r.pass;
    const size_t width = widths_[0];
    for (size_t row; (row = r.team->next(r.rows)) < r.rows;) {
        float* x = at(r, 0, row);
        if (pass.embeds) std::copy_n(pass.embeds + row * width, width, x);
        else embed(table_, static_cast<size_t>(pass.ids[row]), x);
        const size_t b = row / pass.length, s = row % pass.length;
        const int64_t position = pass.positions[(pass.positions_rows == 1 ? 0 : b) * pass.length + s];
        for (size_t i = 0; i < ropes_.size(); ++i) {
            const size_t half = ropes_[i].half;
            const float* frequencies = pass.frequencies[i] + (pass.frequency_rows[i] == 1 ? 0 : b) * half;
            for (size_t j = 0; j < half; ++j) {
                const float angle = static_cast<float>(position) * frequencies[j];  // in float32 by contract
                r.cos[i][row * half + j] = static_cast<float>(std::cos(static_cast<double>(angle))) * ropes_[i].factor;
                r.sin[i][row * half + j] = static_cast<float>(std::sin(static_cast<double>(angle))) * ropes_[i].factor;
            }
        }
    }
    return r.team->barrier();
}

bool Program::perform(Running& r, const Operation& op, size_t thread) const {
    switch (op.kind) {
        case Kind::linear:
        case Kind::head: return linear(r, op, thread);
        case Kind::gated: return gated(r, op, thread);
        case Kind::attention: return attend(r, op, thread);
        default: return each_row(r, op);
    }
}

bool Program::each_row(Running& r, const Operation& op) const {
    const size_t width = widths_[op.input];
    if (op.kind == Kind::capture && !r.pass->captured) return true;  // everybody skips it: nothing to wait for
    for (size_t row; (row = r.team->next(r.rows)) < r.rows;) {
        const float* x = at(r, op.input, row);
        if (op.kind == Kind::capture) {
            std::copy_n(x, width, r.pass->captured + (op.layer * r.rows + row) * width);
            continue;
        }
        float* y = at(r, op.output, row);
        kernels_.rms_norm(x, op.norm, op.eps, width, y);
        if (op.round) {
            for (size_t i = 0; i < width; ++i) {
                uint32_t bits;
                std::memcpy(&bits, y + i, 4);
                bits = y[i] != y[i] ? bits : (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
                std::memcpy(y + i, &bits, 4);
            }
        }
    }
    return r.team->barrier();
}

// One row of inputs in every form that the operation's matrices take.
void Program::prepare(const Operation& op, const float* x, Forms& forms, size_t row) const {
    const size_t width = widths_[op.input];
    float* normed = forms.normed + row * forms.stride;
    if (op.norm) {
        kernels_.rms_norm(x, op.norm, op.eps, width, normed);
        x = normed;
    } else if (op.kind == Kind::head) {
        std::copy_n(x, width, normed);  // kept rows need not lie side by side
    }
    bool pairs = false, grouped[3] = {};
    for (const Matrix* m : op.matrices) {
        if (m->format == Format::bf16 && kernels_.bf16_dot && !pairs) {
            kernels_.to_bf16(x, width, forms.bf16 + row * forms.bf16_stride);
            pairs = true;
        }
        const size_t i = group_index(m->group);
        if (m->group && integer_inputs_ && !grouped[i]) {
            kernels_.quantize(x, width, m->group, forms.q8[i] + row * forms.q8_stride,
                              forms.scale[i] + row * forms.group_stride[i], forms.sum[i] + row * forms.group_stride[i]);
            grouped[i] = true;
        }
    }
}

Program::Forms* Program::prepared(Running& r, const Operation& op, size_t rows, size_t thread) const {
    auto source = [&](size_t row) {
        return at(r, op.input, op.kind == Kind::head ? static_cast<size_t>(r.pass->kept[row]) : row);
    };
    if (rows <= kPrivateRows) {
        Forms& forms = r.threads[thread].forms;
        for (size_t row = 0; row < rows; ++row) prepare(op, source(row), forms, row);
        return &forms;
    }
    for (size_t row; (row = r.team->next(rows)) < rows;) prepare(op, source(row), r.forms, row);
    return r.team->barrier() ? &r.forms : nullptr;
}

Inputs Program::inputs(const Running& r, const Operation& op, const Matrix& m, const Forms& forms) const {
    Inputs x;
    const bool copied = op.norm || op.kind == Kind::head;
    x.f32 = copied ? forms.normed : at(r, op.input, 0);
    x.f32_stride = copied ? forms.stride : stride(op.input);
    if (m.format == Format::bf16 && kernels_.bf16_dot) x.bf16 = forms.bf16, x.bf16_stride = forms.bf16_stride;
    if (m.group && integer_inputs_) {
        const size_t i = group_index(m.group);
        x.q8 = forms.q8[i], x.q8_stride = forms.q8_stride;
        x.scale = forms.scale[i], x.sum = forms.sum[i], x.group_stride = forms.group_stride[i];
    }
    return x;
}

namespace {

Inputs from_row(Inputs x, size_t row) {
    x.f32 += row * x.f32_stride;
    if (x.bf16) x.bf16 += row * x.bf16_stride;
    if (x.q8) x.q8 += row * x.q8_stride, x.scale += row * x.group_stride, x.sum += row * x.group_stride;
    return x;
}

}  // namespace

bool Program::linear(Running& r, const Operation& op, size_t thread) const {
    const bool head = op.kind == Kind::head;
    const size_t rows = head ? r.pass->kept_count : r.rows;
    const Forms* forms = prepared(r, op, rows, thread);
    if (!forms) return false;
    float* scratch = r.threads[thread].products;
    const Start start = op.add ? Start::add : Start::zero;
    auto product = [&](size_t i, size_t first, size_t last, size_t panel, size_t panel_end) {
        const Matrix& m = *op.matrices[i];
        const size_t y_stride = head ? r.pass->logits_stride : stride(op.outputs[i]);
        float* y = (head ? r.pass->logits : at(r, op.outputs[i], 0)) + first * y_stride + panel * kPanel;
        kernels_.matmul(m, from_row(inputs(r, op, m, *forms), first), last - first, panel, panel_end, y, y_stride, start,
                        scratch);
    };
    if (rows <= kFewRows) {
        const size_t step = rows == 1 ? 1 : kPanels;
        size_t all = 0, begin, end;
        for (const Matrix* m : op.matrices) all += blocks(m->panels, step);
        while (r.team->next_run(all, begin, end)) {
            size_t before = 0;
            for (size_t i = 0; i < op.matrices.size(); before += blocks(op.matrices[i++]->panels, step)) {
                const size_t panels = op.matrices[i]->panels;
                const size_t from = std::max(begin, before), to = std::min(end, before + blocks(panels, step));
                if (from < to) product(i, 0, rows, (from - before) * step, std::min((to - before) * step, panels));
            }
        }
        return r.team->barrier();
    }
    size_t all = 0;
    const size_t row_blocks = blocks(rows, kRowBlock);
    for (const Matrix* m : op.matrices) all += blocks(m->panels, kPanels) * row_blocks;
    for (size_t task; (task = r.team->next(all)) < all;) {
        size_t i = 0, rest = task;
        while (rest >= blocks(op.matrices[i]->panels, kPanels) * row_blocks) {
            rest -= blocks(op.matrices[i++]->panels, kPanels) * row_blocks;
        }
        const size_t panel = rest / row_blocks * kPanels, first = rest % row_blocks * kRowBlock;
        product(i, first, std::min(first + kRowBlock, rows), panel, std::min(panel + kPanels, op.matrices[i]->panels));
    }
    return r.team->barrier();
}

bool Program::gated(Running& r, const Operation& op, size_t thread) const {
    const Forms* forms = prepared(r, op, r.rows, thread);
    if (!forms) return false;
    const Matrix &gate = *op.matrices[0], &up = *op.matrices[1];
    const Inputs gate_inputs = inputs(r, op, gate, *forms), up_inputs = inputs(r, op, up, *forms);
    float* scratch = r.threads[thread].products;
    float* gates = scratch + kMatmulScratch;
    float* ups = gates + kGatedRows * kPanels * kPanel;
    auto activate = [&](const float* g, const float* u, size_t n, float* y) {
        op.activation == Activation::silu ? kernels_.silu_multiply(g, u, n, y) : activate_multiply(op.activation, g, u, n, y);
    };
    if (r.rows == 1) {
        float* y = at(r, op.output, 0);
        for (size_t begin, end; r.team->next_run(gate.panels, begin, end);) {
            for (size_t panel = begin; panel < end; panel += kRunPanels) {
                const size_t stop = std::min(panel + kRunPanels, end);
                kernels_.matmul(gate, gate_inputs, 1, panel, stop, gates, 0, Start::zero, scratch);
                kernels_.matmul(up, up_inputs, 1, panel, stop, ups, 0, Start::zero, scratch);
                activate(gates, ups, (stop - panel) * kPanel, y + panel * kPanel);
            }
        }
        return r.team->barrier();
    }
    const size_t row_blocks = blocks(r.rows, kGatedRows), all = blocks(gate.panels, kPanels) * row_blocks;
    auto task_of = [&](size_t task) {
        const size_t panel = task / row_blocks * kPanels, stop = std::min(panel + kPanels, gate.panels);
        const size_t first = task % row_blocks * kGatedRows, rows = std::min(first + kGatedRows, r.rows) - first;
        const size_t width = (stop - panel) * kPanel;
        kernels_.matmul(gate, from_row(gate_inputs, first), rows, panel, stop, gates, width, Start::zero, scratch);
        kernels_.matmul(up, from_row(up_inputs, first), rows, panel, stop, ups, width, Start::zero, scratch);
        for (size_t row = 0; row < rows; ++row) {
            activate(gates + row * width, ups + row * width, width, at(r, op.output, first + row) + panel * kPanel);
        }
    };
    if (r.rows <= kFewRows) {
        for (size_t begin, end; r.team->next_run(all, begin, end);) {
            for (size_t task = begin; task < end; ++task) task_of(task);
        }
    } else {
        for (size_t task; (task = r.team->next(all)) < all;) task_of(task);
    }
    return r.team->barrier();
}

void Program::product(const Matrix& m, const float* x, size_t rows, float* y, size_t y_stride) {
    // A program of one operation, whose buffers are the caller's rows.
    Program one(kernels_, threads_, integer_inputs_);
    const size_t input = one.buffer(m.columns);
    one.head(input, &m);
    std::vector<int64_t> kept(rows), positions(rows, 0);
    for (size_t i = 0; i < rows; ++i) kept[i] = static_cast<int64_t>(i);
    Pass pass;
    pass.last = 1, pass.batch = rows, pass.embeds = x, pass.positions = positions.data(), pass.positions_rows = rows;
    pass.kept = kept.data(), pass.kept_count = rows, pass.logits = y, pass.logits_stride = y_stride;
    one.run(pass);
}

uint64_t Program::read_weights() {
    std::vector<const Matrix*> matrices;
    for (const Operation& op : operations_) matrices.insert(matrices.end(), op.matrices.begin(), op.matrices.end());
    std::vector<uint64_t> sums(threads_ * 8);
    Team team(threads_);
    run_on_pool(threads_, [&](size_t thread) {
        uint64_t total[4] = {};
        for (const Matrix* m : matrices) {
            for (size_t begin, end; team.next_run(m->panels, begin, end);) {
                const uint64_t* p = reinterpret_cast<const uint64_t*>(m->data + begin * m->bytes_panel);
                for (size_t left = (end - begin) * m->bytes_panel / 32; left; --left, p += 4) {
                    for (size_t i = 0; i < 4; ++i) total[i] += p[i];
                }
            }
            team.barrier();
        }
        sums[thread * 8] = total[0] + total[1] + total[2] + total[3];
    });
    uint64_t all = 0;
    for (uint64_t sum : sums) all += sum;
    return all;
}

}  // namespace polyllama
