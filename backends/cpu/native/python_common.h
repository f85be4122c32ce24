// What the files that speak with Python share: arrays and their checks, the interpreter's lock, matrices.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>

#include "formats.h"

namespace polyllama::python {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

[[noreturn]] inline void refuse(const std::string& what) { throw py::value_error(what); }

// Take the interpreter's lock again.
void take_lock(PyThreadState* state);

// Do what needs no Python without the interpreter's lock. `work` may ask for signals with the function it is given.
template <class F>
void without_lock(F work) {
    PyThreadState* state = PyEval_SaveThread();
    std::exception_ptr wrong;
    try {
        work([&state] {
            take_lock(state);
            const bool raised = PyErr_CheckSignals() != 0;
            state = PyEval_SaveThread();
            return raised;
        });
    } catch (const std::exception&) {
        wrong = std::current_exception();
    }
    take_lock(state);
    if (wrong) std::rethrow_exception(wrong);
}

// Elements that do not begin where their type may: a view into the middle of other bytes.
template <class... Arrays>
void refuse_unaligned(const Arrays&... arrays) {
    auto aligned = [](const py::array& a) {
        return reinterpret_cast<uintptr_t>(a.data()) % static_cast<size_t>(a.itemsize()) == 0;
    };
    if (!(aligned(arrays) && ...)) refuse("an array whose elements are not aligned");
}

// A matrix and what its memory belongs to.
struct PyMatrix {
    Matrix m;
    py::object data, bias;  // kept alive
};

Element element_of(const std::string& name);
Matrix shape_of(const std::string& format, size_t rows, size_t columns, size_t group, const std::string& scale);

// Words, scales and biases against a shape.
void check_parts(const Matrix& m, size_t bits, const py::array& words, const py::array& scales, const py::array& biases);

void add_matrices(py::module_& module);
void add_programs(py::module_& module);

}  // namespace polyllama::python
