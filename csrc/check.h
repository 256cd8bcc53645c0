// The macros of the project, and the one way to fail.
#pragma once

#include <stdexcept>
#include <string>

// A function that the CPU and the device both run, from the same source text.
#ifdef __CUDACC__
#define CURBENCH_HD __host__ __device__ __forceinline__
#else
#define CURBENCH_HD inline __attribute__((always_inline))
#endif

#define CURBENCH_CUDA_CHECK(call)                                                                        \
  do {                                                                                                   \
    const cudaError_t status_ = (call);                                                                  \
    if (status_ != cudaSuccess)                                                                          \
      throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status_) + " in " #call);      \
  } while (false)

namespace curbench {

// Raises ValueError in Python.
inline void check(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

}  // namespace curbench
