#include <cuda_runtime.h>

#include "../kernels.h"

namespace curbench::cuda {

int device_count(std::string* reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();  // a missing driver is an answer here; it must not surface in a later launch
    *reason = cudaGetErrorString(status);
    return 0;
  }
  if (count == 0) *reason = "no CUDA device";
  return count;
}

}  // namespace curbench::cuda
