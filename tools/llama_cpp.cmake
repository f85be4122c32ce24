# Read by llama-cpp-python's build (CMAKE_PROJECT_llama_cpp_INCLUDE), which switches this library on by force: more than a
# third of all that is compiled, for command line tools that the Python package has not. A plain variable goes first.
set(LLAMA_BUILD_COMMON OFF)
# GCC reads the first eight bytes of a tile configuration alone as what ldtilecfg takes, leaves out the stores to the others,
# and the first product with AMX ends in an illegal instruction: seen with GCC 12 on a Xeon that has AMX.
if(CMAKE_C_COMPILER_ID STREQUAL "GNU" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  include(CheckCCompilerFlag)
  check_c_compiler_flag(-mno-amx-tile KNOWS_AMX)
  if(KNOWS_AMX)
    add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
  endif()
endif()
