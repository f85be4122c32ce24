// The extension: what Python sees is added by python_matrices.cpp and python_program.cpp.
#include "python_common.h"

#include <chrono>
#include <thread>
#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

#include "detect.h"

namespace polyllama::python {

// While the interpreter ends, Python does not give its lock to daemon threads but ends them, which would pull the stack
// from under the pool's threads: such a thread waits for the end of the process instead.
void take_lock(PyThreadState* state) {
#if defined(__GLIBCXX__)
    try {
        PyEval_RestoreThread(state);
    } catch (const abi::__forced_unwind&) {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
#else
    PyEval_RestoreThread(state);
#endif
}

}  // namespace polyllama::python

PYBIND11_MODULE(_kernels, module) {
    module.doc() = "Native kernels of the cpu backend; see backends/cpu/native.";
    module.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const polyllama::Kernels* kernels : polyllama::usable_kernels()) names.emplace_back(kernels->name);
        return names;
    });
    polyllama::python::add_matrices(module);
    polyllama::python::add_programs(module);
}
