# Read by llama-cpp-python's build (CMAKE_PROJECT_llama_cpp_INCLUDE), which switches this library on by force: more than a
# third of all that is compiled, for command line tools that the Python package has not. A plain variable goes first.
set(LLAMA_BUILD_COMMON OFF)
