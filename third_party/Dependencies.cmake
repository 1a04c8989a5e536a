# Finds what the compiler is built from; nothing is vendored. Debian 12's packages are the base (tools/setup installs them).
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(LLVM 19.1 REQUIRED CONFIG HINTS /usr/lib/llvm-19/lib/cmake/llvm)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Catch2 2 REQUIRED)

# LLVM's ADT and Support only.
add_library(sscc_llvm INTERFACE)
target_include_directories(sscc_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS})
target_compile_definitions(sscc_llvm INTERFACE ${LLVM_DEFINITIONS})
target_link_directories(sscc_llvm INTERFACE ${LLVM_LIBRARY_DIRS})
target_link_libraries(sscc_llvm INTERFACE LLVM-19)

# ONNX's protobuf messages.
find_library(ONNX_PROTO_LIBRARY onnx_proto REQUIRED)
add_library(sscc_onnx INTERFACE)
target_link_libraries(sscc_onnx INTERFACE ${ONNX_PROTO_LIBRARY} protobuf::libprotobuf)
target_compile_definitions(sscc_onnx INTERFACE ONNX_ML=1 ONNX_NAMESPACE=onnx)

# The compiler's allocator: plans for a thousand ranks are many small objects, made side by side. Not under sanitizers, which have their own.
find_library(JEMALLOC_LIBRARY jemalloc REQUIRED)
add_library(sscc_allocator INTERFACE)
if(NOT SSCC_SANITIZE)
  target_link_libraries(sscc_allocator INTERFACE ${JEMALLOC_LIBRARY})
endif()

# The CPU runtime's matrix products.
find_path(CBLAS_INCLUDE cblas.h PATH_SUFFIXES x86_64-linux-gnu aarch64-linux-gnu openblas REQUIRED)
find_library(OPENBLAS_LIBRARY openblas REQUIRED)
find_path(DNNL_INCLUDE dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(sscc_blas INTERFACE)
target_include_directories(sscc_blas SYSTEM INTERFACE ${CBLAS_INCLUDE} ${DNNL_INCLUDE})
target_link_libraries(sscc_blas INTERFACE ${OPENBLAS_LIBRARY} ${DNNL_LIBRARY})

# CUDA programs' kernels: only where nvcc is; everything else builds without it. CI compiles for one architecture.
include(CheckLanguage)
if(NOT SSCC_SANITIZE AND NOT SSCC_FUZZ)   # nothing of it could be sanitized
  check_language(CUDA)
endif()
if(CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90)
  endif()
  if(CMAKE_CXX_COMPILER_LAUNCHER AND NOT DEFINED CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)   # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  find_package(CUDAToolkit REQUIRED)
  # The kernels' runtime, BLAS and sorting (CUB).
  add_library(sscc_cuda INTERFACE)
  target_link_libraries(sscc_cuda INTERFACE CUDA::cudart_static CUDA::cublasLt)
  # Convolutions', where it is.
  find_path(CUDNN_INCLUDE cudnn.h HINTS $ENV{CUDNN_ROOT}/include ${CUDAToolkit_INCLUDE_DIRS})
  find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS $ENV{CUDNN_ROOT}/lib ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_DIR}/../lib)
  if(CUDNN_INCLUDE AND CUDNN_LIBRARY)
    add_library(sscc_cudnn INTERFACE)
    target_include_directories(sscc_cudnn SYSTEM INTERFACE ${CUDNN_INCLUDE})
    target_link_libraries(sscc_cudnn INTERFACE ${CUDNN_LIBRARY})
  endif()
endif()
