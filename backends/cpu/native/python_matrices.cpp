// Matrices for Python, over buffers that it keeps, and packing. Every array's shape and element type is checked here.
#include "python_common.h"

#include "packing.h"

namespace polyllama::python {

Element element_of(const std::string& name) {
    if (name == "float32") return Element::f32;
    if (name == "bfloat16") return Element::bf16;
    if (name == "float16") return Element::f16;
    if (name == "int8") return Element::i8;
    refuse("no element type is called " + name);
}

namespace {

void refuse_astray(const void* matrix) {
    if (reinterpret_cast<uintptr_t>(matrix) % kLine) refuse("a matrix does not begin on a cache line");
}

Format format_of(const std::string& name) {
    if (name == "float32") return Format::f32;
    if (name == "bfloat16") return Format::bf16;
    if (name == "float16") return Format::f16;
    if (name == "q4") return Format::q4;
    if (name == "q8") return Format::q8;
    refuse("no format is called " + name);
}

}  // namespace

Matrix shape_of(const std::string& format, size_t rows, size_t columns, size_t group, const std::string& scale) {
    Matrix m{};
    m.format = format_of(format), m.rows = rows, m.columns = columns;
    m.panels = (rows + kPanel - 1) / kPanel;
    const bool grouped = m.format == Format::q4 || m.format == Format::q8;
    m.scale = grouped ? element_of(scale) : Element::f32;
    m.group = grouped ? group : 0;
    constexpr size_t most = size_t{1} << 26;  // no product of two of them, times an element's size, leaves 64 bits
    if (!rows || !columns || rows > most || columns > most) refuse("a matrix of no rows or columns, or of too many");
    if (grouped && ((group != 32 && group != 64 && group != 128) || columns % group || m.scale == Element::i8)) {
        refuse("groups that do not divide the inputs");
    }
    m.bytes_group = grouped ? group_bytes(m.format, group, m.scale) : 0;
    m.bytes_panel = panel_bytes(m.format, columns, group, m.scale);
    return m;
}

void check_parts(const Matrix& m, size_t bits, const py::array& words, const py::array& scales, const py::array& biases) {
    const bool width = bits && bits <= (m.format == Format::q4 ? 4u : 8u);
    auto is = [&](const py::array& a, size_t columns, size_t size) {
        return a.ndim() == 2 && (a.flags() & py::array::c_style) && static_cast<size_t>(a.shape(0)) == m.rows &&
               static_cast<size_t>(a.shape(1)) == columns && static_cast<size_t>(a.itemsize()) == size;
    };
    const size_t element = element_size(m.scale);
    if (!m.group || !width || !is(words, m.columns * bits / 32, 4) || !is(scales, m.columns / m.group, element) ||
        !is(biases, m.columns / m.group, element)) {
        refuse("words, scales and biases do not fit the shape");
    }
    refuse_unaligned(words, scales, biases);
}

namespace {

std::unique_ptr<PyMatrix> make_matrix(const std::string& format, size_t rows, size_t columns, size_t group,
                                      const std::string& scale, Array<uint8_t> data,
                                      std::optional<Array<float>> bias) {
    auto made = std::make_unique<PyMatrix>();
    made->m = shape_of(format, rows, columns, group, scale);
    if (data.ndim() != 1 || static_cast<size_t>(data.nbytes()) != made->m.panels * made->m.bytes_panel) {
        refuse("a matrix's bytes are not as many as its shape says");
    }
    refuse_astray(data.data());
    made->m.data = data.data(), made->data = data;
    if (bias) {
        if (static_cast<size_t>(bias->size()) != made->m.panels * kPanel) refuse("a bias is not padded to whole panels");
        refuse_unaligned(*bias);
        made->m.bias = bias->data(), made->bias = *bias;
    }
    return made;
}

size_t packed_bytes(const std::string& format, size_t rows, size_t columns, size_t group, const std::string& scale) {
    const Matrix m = shape_of(format, rows, columns, group, scale);
    return m.panels * m.bytes_panel;
}

void pack_floats_into(const std::string& format, py::array source, Array<uint8_t> out) {
    if (source.ndim() != 2 || !(source.flags() & py::array::c_style)) refuse("a matrix is wanted, in C order");
    const size_t rows = static_cast<size_t>(source.shape(0)), columns = static_cast<size_t>(source.shape(1));
    const Matrix m = shape_of(format, rows, columns, 0, "float32");
    if (m.group || source.itemsize() != (m.format == Format::f32 ? 4 : 2)) refuse("elements of another size");
    refuse_unaligned(source);
    if (static_cast<size_t>(out.nbytes()) != m.panels * m.bytes_panel) refuse("an output of another size");
    refuse_astray(out.data());
    const auto* from = static_cast<const uint8_t*>(source.data());
    uint8_t* to = out.mutable_data();
    without_lock([&](auto&&) { pack_floats(from, m.format, rows, columns, to); });
}

void unpack_floats_into(const PyMatrix& matrix, py::array out) {
    const Matrix& m = matrix.m;
    if (m.group || out.ndim() != 2 || !(out.flags() & py::array::c_style) || !out.writeable() ||
        static_cast<size_t>(out.shape(0)) != m.rows || static_cast<size_t>(out.shape(1)) != m.columns ||
        out.itemsize() != (m.format == Format::f32 ? 4 : 2)) {
        refuse("an output of another shape");
    }
    refuse_unaligned(out);
    auto* to = static_cast<uint8_t*>(out.mutable_data());
    without_lock([&](auto&&) { unpack_floats(m.data, m.format, m.rows, m.columns, to); });
}

void pack_quantized_into(const std::string& format, size_t columns, size_t group, const std::string& scale, size_t bits,
                         py::array words, py::array scales, py::array biases, Array<uint8_t> out) {
    const Matrix m = shape_of(format, static_cast<size_t>(words.shape(0)), columns, group, scale);
    check_parts(m, bits, words, scales, biases);
    if (static_cast<size_t>(out.nbytes()) != m.panels * m.bytes_panel) refuse("an output of another size");
    refuse_astray(out.data());
    const Packed from{static_cast<const uint32_t*>(words.data()), static_cast<const uint8_t*>(scales.data()),
                      static_cast<const uint8_t*>(biases.data())};
    uint8_t* to = out.mutable_data();
    without_lock([&](auto&&) { pack_quantized(from, bits, m, to); });
}

void unpack_quantized_into(const PyMatrix& matrix, size_t bits, py::array words, py::array scales, py::array biases) {
    check_parts(matrix.m, bits, words, scales, biases);
    auto* w = static_cast<uint32_t*>(words.mutable_data());
    auto *s = static_cast<uint8_t*>(scales.mutable_data()), *b = static_cast<uint8_t*>(biases.mutable_data());
    without_lock([&](auto&&) { unpack_quantized(matrix.m, bits, w, s, b); });
}

}  // namespace

void add_matrices(py::module_& module) {
    module.def("packed_bytes", &packed_bytes);
    module.def("pack_floats", &pack_floats_into);
    module.def("pack_quantized", &pack_quantized_into);
    py::class_<PyMatrix>(module, "Matrix")
        .def(py::init(&make_matrix), py::arg("format"), py::arg("rows"), py::arg("columns"), py::arg("group"),
             py::arg("scale"), py::arg("data").noconvert(), py::arg("bias").noconvert() = py::none())
        .def("unpack_floats", &unpack_floats_into)
        .def("unpack_quantized", &unpack_quantized_into)
        .def_property_readonly("nbytes", [](const PyMatrix& m) { return m.m.panels * m.m.bytes_panel; })
        .def_property_readonly("padded_rows", [](const PyMatrix& m) { return m.m.panels * kPanel; });
}

}  // namespace polyllama::python
