#include <atomic>
#include <cuda_runtime.h>

#include "../kernels.h"

namespace curbench::cuda {

static constexpr int64_t kMostBlocks = int64_t{1} << 20;
static std::atomic<int64_t> most_blocks{kMostBlocks};

int64_t grid_limit() { return most_blocks.load(std::memory_order_relaxed); }
void set_grid_limit(int64_t blocks) { most_blocks.store(blocks > 0 ? blocks : kMostBlocks); }

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
