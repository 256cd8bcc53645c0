// How the CPU runs the items of an op: on this thread, or on `threads` of them. Items do not depend on each other, so
// the schedule cannot change a result.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../check.h"
#include "isa.h"

namespace curbench::cpu {

template <class Op>
void run_portable(const Op& op, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) op(i);
}

#ifdef CURBENCH_X86
template <class Op>
__attribute__((target(CURBENCH_AVX2))) void run_avx2(const Op& op, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) op(i);
}

template <class Op>
__attribute__((target(CURBENCH_AVX512))) void run_avx512(const Op& op, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) op(i);
}
#endif

// The compiler vectorises the op for every instruction set. An op that does better by hand overloads this function.
template <class Op>
void run_items(const Op& op, int64_t first, int64_t last) {
#ifdef CURBENCH_X86
  if (isa() == Isa::kAvx512) return run_avx512(op, first, last);
  if (isa() == Isa::kAvx2) return run_avx2(op, first, last);
#endif
  run_portable(op, first, last);
}

struct Launch {
  int threads;

  template <class Op>
  void operator()(int64_t count, const Op& op) const {
    if (threads == 1 || count == 1) return run_items(op, 0, count);
    const int64_t chunk = std::max<int64_t>(1, count / (int64_t{8} * threads));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t first = 0; first < count; first += chunk) run_items(op, first, std::min(first + chunk, count));
  }

  template <class T>
  void read(T* host, const T* value, int64_t n) const {
    std::copy_n(value, n, host);
  }

  template <class T>
  void write(T* value, const T* host, int64_t n) const {
    std::copy_n(host, n, value);
  }
};

}  // namespace curbench::cpu
