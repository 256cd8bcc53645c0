// How CUDA runs the items of an op: one warp per item, grid-stride, on the caller's stream.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cuda_runtime.h>

#include "../check.h"
#include "../kernels.h"
#include "../lanes.h"

namespace curbench::cuda {

constexpr int kThreads = 256;

template <class Op>
__global__ void __launch_bounds__(kThreads) run_items(int64_t count, const __grid_constant__ Op op) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kLanes);
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  for (int64_t i = warp; i < count; i += warps) op(i);
}

struct Launch {
  cudaStream_t stream;

  // This library carries its own CUDA runtime, so the device that torch chose must be chosen here as well.
  explicit Launch(Queue queue) : stream(static_cast<cudaStream_t>(queue.stream)) {
    CURBENCH_CUDA_CHECK(cudaSetDevice(queue.device));
  }

  template <class Op>
  void operator()(int64_t count, const Op& op) const {
    if (count == 0) return;
    const int64_t grid = std::min(ceil_div(count, kThreads / kLanes), grid_limit());
    run_items<<<static_cast<unsigned>(grid), kThreads, 0, stream>>>(count, op);
    CURBENCH_CUDA_CHECK(cudaGetLastError());
  }

  // Waits for the stream.
  template <class T>
  void read(T* host, const T* value, int64_t n) const {
    CURBENCH_CUDA_CHECK(cudaMemcpyAsync(host, value, n * sizeof(T), cudaMemcpyDeviceToHost, stream));
    CURBENCH_CUDA_CHECK(cudaStreamSynchronize(stream));
  }

  // Waits for the stream, so that the host's array may go.
  template <class T>
  void write(T* value, const T* host, int64_t n) const {
    CURBENCH_CUDA_CHECK(cudaMemcpyAsync(value, host, n * sizeof(T), cudaMemcpyHostToDevice, stream));
    CURBENCH_CUDA_CHECK(cudaStreamSynchronize(stream));
  }
};

}  // namespace curbench::cuda
