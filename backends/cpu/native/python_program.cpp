// Programs over matrices, and passes over arrays, for Python. Every array's shape and element type is checked here; the
// memory a pass touches follows from what was checked.
#include "python_common.h"

#include "detect.h"
#include "program.h"

namespace polyllama::python {
namespace {

// A program and everything it points at.
struct PyProgram {
    Program program;
    std::vector<py::object> kept;

    PyProgram(const Kernels& kernels, size_t threads, bool integer_inputs) : program(kernels, threads, integer_inputs) {}

    const float* vector(const std::optional<Array<float>>& array, size_t width) {
        if (!array) return nullptr;
        if (array->ndim() != 1 || static_cast<size_t>(array->shape(0)) != width) refuse("a vector of another width");
        refuse_unaligned(*array);
        kept.push_back(*array);
        return array->data();
    }

    const Matrix* matrix(py::object object) {
        const PyMatrix& m = object.cast<const PyMatrix&>();
        kept.push_back(object);
        return &m.m;
    }
};

std::unique_ptr<PyProgram> make_program(const std::string& isa, size_t threads, bool integer_inputs) {
    const Kernels* kernels = find_kernels(isa);
    if (!kernels) refuse("no kernels for " + isa);
    if (!threads || threads > 4096) refuse("no threads, or too many");
    return std::make_unique<PyProgram>(*kernels, threads, integer_inputs);
}

void set_table(PyProgram& p, py::object table) {
    Table t;
    if (py::isinstance<PyMatrix>(table)) {
        t.panels = p.matrix(table);
        t.rows = t.panels->rows, t.width = t.panels->columns;
    } else {
        const auto array = table.cast<std::tuple<std::string, py::array>>();
        const py::array& floats = std::get<1>(array);
        t.element = element_of(std::get<0>(array));
        if (floats.ndim() != 2 || !(floats.flags() & py::array::c_style) || t.element == Element::i8 ||
            static_cast<size_t>(floats.itemsize()) != element_size(t.element)) {
            refuse("an embedding of another kind");
        }
        refuse_unaligned(floats);
        t.rows = static_cast<size_t>(floats.shape(0)), t.width = static_cast<size_t>(floats.shape(1));
        t.floats = floats.data();
        p.kept.push_back(floats);
    }
    p.program.set_table(t);
}

void set_packed_table(PyProgram& p, size_t bits, const std::string& scale, py::array words, py::array scales,
                      py::array biases) {
    if (words.ndim() != 2 || scales.ndim() != 2 || !bits || bits > 8 || !scales.shape(1)) refuse("an embedding of another kind");
    const size_t columns = static_cast<size_t>(words.shape(1)) * 32 / bits, groups = static_cast<size_t>(scales.shape(1));
    Matrix m = shape_of("q8", static_cast<size_t>(words.shape(0)), columns, columns / groups, scale);
    check_parts(m, bits, words, scales, biases);
    Table t;
    t.rows = m.rows, t.width = columns, t.element = m.scale, t.bits = bits, t.group = m.group;
    t.words = static_cast<const uint32_t*>(words.data()), t.scales = scales.data(), t.biases = biases.data();
    for (const py::array& part : {words, scales, biases}) p.kept.push_back(part);
    p.program.set_table(t);
}

struct PyCache {
    CacheStorage storage;
    std::vector<py::object> kept;
};

std::unique_ptr<PyCache> make_cache(const std::string& element, size_t head_dim, py::array keys, py::array values,
                                    std::optional<Array<float>> key_scales, std::optional<Array<float>> value_scales) {
    // keys [layers][batch][heads][capacity / 16][Dk][16], values [layers][batch][heads][capacity][Dv]
    auto made = std::make_unique<PyCache>();
    CacheStorage& c = made->storage;
    c.element = element_of(element);
    auto fits = [&](const py::array& a, int dimensions) {
        return a.ndim() == dimensions && (a.flags() & py::array::c_style) && a.writeable() &&
               static_cast<size_t>(a.itemsize()) == element_size(c.element);
    };
    if (!fits(keys, 6) || !fits(values, 5)) refuse("cache arrays of another kind");
    refuse_unaligned(keys, values);
    c.layers = static_cast<size_t>(keys.shape(0)), c.batch = static_cast<size_t>(keys.shape(1));
    c.heads = static_cast<size_t>(keys.shape(2)), c.capacity = static_cast<size_t>(keys.shape(3)) * kKeys;
    c.head_dim = head_dim;
    if (!head_dim || static_cast<size_t>(keys.shape(4)) != key_stride(c.element, head_dim)) refuse("keys of another width");
    for (int i = 0; i < 3; ++i) {
        if (keys.shape(i) != values.shape(i)) refuse("keys and values of different shapes");
    }
    if (keys.shape(5) != kKeys || static_cast<size_t>(values.shape(3)) != c.capacity ||
        static_cast<size_t>(values.shape(4)) != round_up(c.head_dim, kKeys)) {
        refuse("keys and values of different shapes");
    }
    c.keys = static_cast<uint8_t*>(keys.mutable_data()), c.values = static_cast<uint8_t*>(values.mutable_data());
    made->kept = {keys, values};
    if (c.element == Element::i8) {
        const size_t count = c.layers * c.batch * c.heads * c.capacity;
        if (!key_scales || !value_scales || static_cast<size_t>(key_scales->size()) != count ||
            static_cast<size_t>(value_scales->size()) != count) {
            refuse("scales of another shape");
        }
        refuse_unaligned(*key_scales, *value_scales);
        c.key_scales = key_scales->mutable_data(), c.value_scales = value_scales->mutable_data();
        made->kept.insert(made->kept.end(), {*key_scales, *value_scales});
    }
    return made;
}

// Ids or embeddings, and where they stand.
void take_inputs(Pass& pass, const PyProgram& p, const py::array& inputs, const Array<int64_t>& positions,
                 const std::vector<Array<float>>& frequencies) {
    if (!(inputs.flags() & py::array::c_style)) refuse("inputs must be in C order");
    refuse_unaligned(inputs, positions);
    if (inputs.ndim() == 2 && inputs.dtype().is(py::dtype::of<int64_t>())) {
        pass.ids = static_cast<const int64_t*>(inputs.data());
    } else if (inputs.ndim() == 3 && inputs.dtype().is(py::dtype::of<float>()) &&
               static_cast<size_t>(inputs.shape(2)) == p.program.width(0)) {
        pass.embeds = static_cast<const float*>(inputs.data());
    } else {
        refuse("inputs are neither int64 ids [batch, length] nor float32 embeddings of the model's width");
    }
    pass.batch = static_cast<size_t>(inputs.shape(0)), pass.length = static_cast<size_t>(inputs.shape(1));
    if (positions.ndim() != 2 || static_cast<size_t>(positions.shape(1)) != pass.length) refuse("positions of another length");
    pass.positions = positions.data(), pass.positions_rows = static_cast<size_t>(positions.shape(0));
    for (size_t i = 0; i < frequencies.size(); ++i) {
        if (frequencies[i].ndim() != 2 || static_cast<size_t>(frequencies[i].shape(1)) != p.program.rope_half(i)) {
            refuse("frequencies of another width");
        }
        refuse_unaligned(frequencies[i]);
        pass.frequencies.push_back(frequencies[i].data());
        pass.frequency_rows.push_back(static_cast<size_t>(frequencies[i].shape(0)));
    }
}

// Where hidden states go.
void take_hidden(Pass& pass, const PyProgram& p, std::optional<Array<float>>& captured, std::optional<Array<float>>& hidden,
                 size_t hidden_buffer) {
    const size_t rows = pass.batch * pass.length;
    if (captured) {
        if (static_cast<size_t>(captured->size()) < p.program.captures() * rows * p.program.width(0)) {
            refuse("no room for hidden states");
        }
        refuse_unaligned(*captured);
        pass.captured = captured->mutable_data();
    }
    if (hidden) {
        if (static_cast<size_t>(hidden->size()) != rows * p.program.width(hidden_buffer)) refuse("no room for the output");
        refuse_unaligned(*hidden);
        pass.hidden = hidden->mutable_data(), pass.hidden_buffer = hidden_buffer;
    }
}

bool run(PyProgram& p, size_t first, size_t last, py::object tokens, Array<int64_t> positions,
         const std::vector<Array<float>>& frequencies, const PyCache* cache, size_t past, std::optional<Array<uint8_t>> mask,
         std::optional<Array<float>> captured, std::optional<Array<float>> hidden, size_t hidden_buffer,
         std::optional<Array<int64_t>> kept, std::optional<Array<float>> logits) {
    Pass pass;
    pass.first = first, pass.last = last, pass.past = past;
    const py::array inputs = tokens.cast<py::array>();
    take_inputs(pass, p, inputs, positions, frequencies);
    if (mask) {
        if (mask->ndim() != 3 || static_cast<size_t>(mask->shape(1)) != pass.length ||
            static_cast<size_t>(mask->shape(2)) != past + pass.length) {
            refuse("a mask of another shape");
        }
        pass.mask = mask->data(), pass.mask_rows = static_cast<size_t>(mask->shape(0));
    }
    if (cache) pass.cache = cache->storage;
    take_hidden(pass, p, captured, hidden, hidden_buffer);
    if (logits) {
        if (!kept || logits->ndim() != 2 || logits->shape(0) != kept->size()) refuse("one row of logits for each kept row");
        refuse_unaligned(*kept, *logits);
        pass.kept = kept->data(), pass.kept_count = static_cast<size_t>(kept->size());
        pass.logits = logits->mutable_data(), pass.logits_stride = static_cast<size_t>(logits->shape(1));
    }
    p.program.seal();
    bool finished = false;
    without_lock([&](auto&& interrupted) {
        pass.interrupted = interrupted;
        finished = p.program.run(pass);
    });
    if (!finished) throw py::error_already_set();  // what the signal handler raised
    return true;
}

void product(PyProgram& p, const PyMatrix& m, Array<float> x, Array<float> y) {
    if (x.ndim() != 2 || y.ndim() != 2 || !x.shape(0) || x.shape(0) != y.shape(0) || static_cast<size_t>(x.shape(1)) != m.m.columns ||
        static_cast<size_t>(y.shape(1)) != m.m.panels * kPanel) {
        refuse("rows of another shape");
    }
    refuse_unaligned(x, y);
    const float* from = x.data();
    float* to = y.mutable_data();
    const size_t rows = static_cast<size_t>(x.shape(0));
    without_lock([&](auto&&) { p.program.product(m.m, from, rows, to, m.m.panels * kPanel); });
}

}  // namespace

void add_programs(py::module_& module) {
    py::class_<PyCache>(module, "Cache")
        .def(py::init(&make_cache), py::arg("element"), py::arg("head_dim"), py::arg("keys"), py::arg("values"),
             py::arg("key_scales").noconvert() = py::none(), py::arg("value_scales").noconvert() = py::none());
    py::class_<PyProgram>(module, "Program")
        .def(py::init(&make_program), py::arg("isa"), py::arg("threads"), py::arg("integer_inputs"))
        .def("buffer", [](PyProgram& p, size_t width) { return p.program.buffer(width); })
        .def("rope", [](PyProgram& p, size_t half, float factor) { return p.program.rope(half, factor); })
        .def("table", &set_table)
        .def("packed_table", &set_packed_table)
        .def("linear",
             [](PyProgram& p, size_t input, std::optional<Array<float>> norm, float eps, std::vector<py::object> matrices,
                std::vector<size_t> outputs, bool add) {
                 std::vector<const Matrix*> found;
                 for (const py::object& m : matrices) found.push_back(p.matrix(m));
                 const float* weight = p.vector(norm, p.program.width(input));
                 return p.program.linear(input, weight, eps, std::move(found), std::move(outputs), add);
             },
             py::arg("input"), py::arg("norm").noconvert(), py::arg("eps"), py::arg("matrices"), py::arg("outputs"),
             py::arg("add"))
        .def("gated",
             [](PyProgram& p, size_t input, std::optional<Array<float>> norm, float eps, py::object gate, py::object up,
                size_t output, int activation) {
                 if (activation < 0 || activation > static_cast<int>(Activation::linear)) refuse("no such activation");
                 const float* weight = p.vector(norm, p.program.width(input));
                 return p.program.gated(input, weight, eps, p.matrix(gate), p.matrix(up), output,
                                        static_cast<Activation>(activation));
             },
             py::arg("input"), py::arg("norm").noconvert(), py::arg("eps"), py::arg("gate"), py::arg("up"),
             py::arg("output"), py::arg("activation"))
        .def("attention",
             [](PyProgram& p, size_t q, size_t k, size_t v, size_t output, size_t layer, size_t heads, size_t kv_heads,
                size_t head_dim, size_t rope) {
                 return p.program.attention(q, k, v, output, layer, heads, kv_heads, head_dim, rope);
             },
             py::arg("q"), py::arg("k"), py::arg("v"), py::arg("output"), py::arg("layer"), py::arg("heads"),
             py::arg("kv_heads"), py::arg("head_dim"), py::arg("rope"))
        .def("norm",
             [](PyProgram& p, size_t input, size_t output, Array<float> weight, float eps, bool round) {
                 return p.program.norm(input, output, p.vector(weight, p.program.width(input)), eps, round);
             },
             py::arg("input"), py::arg("output"), py::arg("weight").noconvert(), py::arg("eps"), py::arg("round"))
        .def("capture", [](PyProgram& p, size_t input) { return p.program.capture(input); })
        .def("head", [](PyProgram& p, size_t input, py::object m) { return p.program.head(input, p.matrix(m)); })
        .def("run", &run, py::arg("first"), py::arg("last"), py::arg("tokens"), py::arg("positions").noconvert(),
             py::arg("frequencies"), py::arg("cache"), py::arg("past"), py::arg("mask").noconvert() = py::none(),
             py::arg("captured").noconvert() = py::none(), py::arg("hidden").noconvert() = py::none(),
             py::arg("hidden_buffer") = 0, py::arg("kept").noconvert() = py::none(),
             py::arg("logits").noconvert() = py::none())
        .def("product", &product, py::arg("matrix"), py::arg("x").noconvert(), py::arg("y").noconvert())
        .def("read_weights",
             [](PyProgram& p) {
                 p.program.seal();
                 uint64_t sum = 0;
                 without_lock([&](auto&&) { sum = p.program.read_weights(); });
                 return sum;
             })
        .def_property_readonly("operations", [](const PyProgram& p) { return p.program.operations(); })
        .def_property_readonly("threads", [](const PyProgram& p) { return p.program.threads(); })
        .def_property_readonly("isa", [](const PyProgram& p) { return std::string(p.program.kernels().name); })
        .def_property_readonly("weight_bytes", [](const PyProgram& p) { return p.program.weight_bytes(); });
}

}  // namespace polyllama::python
