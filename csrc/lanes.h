// Loops in a canonical order: 32 lanes with stride 32, then a fixed tree.
//
// An op is a struct with `operator()(int64_t item)`. The CPU runs an item on one thread, where the 32 lanes are an
// array that the compiler vectorises; CUDA runs it on one warp, where they are the lanes and the tree is shuffles.
// Both execute the same additions in the same order, so results carry the same bits on CPU and GPU, whatever the
// number of threads. An item must reach every lane_* call with all of its lanes.
#pragma once

#include <cmath>
#include <cstdint>

#include "check.h"

namespace curbench {

constexpr int kLanes = 32;
constexpr int64_t kBlock = 1024;  // rows or arms per item in the ops that reduce over all of them

constexpr CURBENCH_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// True in the one lane that writes what belongs to the whole item.
CURBENCH_HD bool leader() {
#ifdef __CUDA_ARCH__
  return threadIdx.x % kLanes == 0;
#else
  return true;
#endif
}

// Host: joins acc[0 .. kWidth) by the tree of the shuffles, halves first; constant sizes keep it in registers.
template <int kWidth, class T, class Join>
CURBENCH_HD T tree(T* acc, Join join) {
  if constexpr (kWidth == 1) {
    return acc[0];
  } else {
    for (int l = 0; l < kWidth / 2; ++l) acc[l] = join(acc[l], acc[l + kWidth / 2]);
    return tree<kWidth / 2>(acc, join);
  }
}

// Host: the first kWidth lanes. They are enough when n <= kWidth, since joining an identity changes nothing.
template <int kWidth, class T, class Term, class Join>
CURBENCH_HD T fold(int64_t n, T identity, Term term, Join join) {
  T acc[kWidth];
  int64_t i = 0;
  if (n < kWidth) {
    for (int l = 0; l < kWidth; ++l) acc[l] = identity;
  } else {
    for (int l = 0; l < kWidth; ++l) acc[l] = join(identity, term(l));
    for (i = kWidth; i + kWidth <= n; i += kWidth)
      for (int l = 0; l < kWidth; ++l) acc[l] = join(acc[l], term(i + l));
  }
  for (int l = 0; i + l < n; ++l) acc[l] = join(acc[l], term(i + l));
  return tree<kWidth>(acc, join);
}

template <class T, class Term, class Join>
CURBENCH_HD T lane_fold(int64_t n, T identity, Term term, Join join) {
#ifdef __CUDA_ARCH__
  T mine = identity;
  for (int64_t i = threadIdx.x % kLanes; i < n; i += kLanes) mine = join(mine, term(i));
  for (int half = kLanes / 2; half > 0; half /= 2) mine = join(mine, __shfl_xor_sync(0xffffffffu, mine, half));
  return mine;
#else
  if (n <= 8) return fold<8>(n, identity, term, join);
  return fold<kLanes>(n, identity, term, join);
#endif
}

template <class Term>
CURBENCH_HD double lane_sum(int64_t n, Term term) {
  return lane_fold(n, 0.0, term, [](double a, double b) { return a + b; });
}

template <class Term>
CURBENCH_HD double lane_max(int64_t n, Term term) {
  return lane_fold(n, -HUGE_VAL, term, [](double a, double b) { return a > b ? a : b; });
}

// sum x(i) y(i) in float, every product fused with its sum. Host: the compiler makes one instruction of fmaf where the
// target has it, and calls the library elsewhere.
template <class X, class Y>
CURBENCH_HD float lane_dot(int64_t n, X x, Y y) {
#ifdef __CUDA_ARCH__
  float mine = 0.0f;
  for (int64_t i = threadIdx.x % kLanes; i < n; i += kLanes) mine = __builtin_fmaf(x(i), y(i), mine);
  for (int half = kLanes / 2; half > 0; half /= 2) mine = mine + __shfl_xor_sync(0xffffffffu, mine, half);
  return mine;
#else
  float acc[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) acc[l] = __builtin_fmaf(x(i + l), y(i + l), acc[l]);
  for (int l = 0; i + l < n; ++l) acc[l] = __builtin_fmaf(x(i + l), y(i + l), acc[l]);
  return tree<kLanes>(acc, [](float a, float b) { return a + b; });
#endif
}

// The same for rows of pairs, as in two-byte types: lane l takes pair l, l + 32, ..., the sum of the first entries and
// that of the second ones are apart until the end.
template <class X, class Y>
CURBENCH_HD float lane_dot_pairs(int64_t n, X x, Y y) {
  const int64_t pairs = n / 2;
#ifdef __CUDA_ARCH__
  float first = 0.0f, second = 0.0f;
  for (int64_t i = threadIdx.x % kLanes; i < pairs + n % 2; i += kLanes) {
    first = __builtin_fmaf(x(2 * i), y(2 * i), first);
    if (i < pairs) second = __builtin_fmaf(x(2 * i + 1), y(2 * i + 1), second);
  }
  float mine = first + second;
  for (int half = kLanes / 2; half > 0; half /= 2) mine = mine + __shfl_xor_sync(0xffffffffu, mine, half);
  return mine;
#else
  float first[kLanes] = {}, second[kLanes] = {};
  for (int64_t i = 0; i < pairs + n % 2; ++i) {
    const int l = i % kLanes;
    first[l] = __builtin_fmaf(x(2 * i), y(2 * i), first[l]);
    if (i < pairs) second[l] = __builtin_fmaf(x(2 * i + 1), y(2 * i + 1), second[l]);
  }
  for (int l = 0; l < kLanes; ++l) first[l] = first[l] + second[l];
  return tree<kLanes>(first, [](float a, float b) { return a + b; });
#endif
}

// Number of i < n with term(i). Integers add exactly, so the CPU counts in any order, and in 16 bits where that fits.
template <class Term>
CURBENCH_HD int64_t lane_count(int64_t n, Term term) {
#ifdef __CUDA_ARCH__
  const auto one = [&](int64_t i) { return int64_t{term(i)}; };
  return lane_fold(n, int64_t{0}, one, [](int64_t a, int64_t b) { return a + b; });
#else
  int64_t count = 0;
  for (int64_t base = 0; base < n; base += 4096) {
    const int64_t end = n - base < 4096 ? n : base + 4096;
    uint16_t part = 0;
    for (int64_t i = base; i < end; ++i) part += term(i) ? 1 : 0;
    count += part;
  }
  return count;
#endif
}

template <class Body>
CURBENCH_HD void lane_for(int64_t n, Body body) {
#ifdef __CUDA_ARCH__
  for (int64_t i = threadIdx.x % kLanes; i < n; i += kLanes) body(i);
#else
  for (int64_t i = 0; i < n; ++i) body(i);
#endif
}

// The first i whose running sum of term(0..i), added one by one, exceeds target; if rounding put target past the
// end, the last i with a positive term. Terms are >= 0.
template <class Term>
CURBENCH_HD int64_t lane_walk(int64_t n, double target, Term term) {
  double sum = 0.0;
  int64_t last = 0;
  for (int64_t base = 0; base < n; base += kLanes) {
    const int width = n - base < kLanes ? static_cast<int>(n - base) : kLanes;
#ifdef __CUDA_ARCH__
    const int lane = threadIdx.x % kLanes;
    const double mine = lane < width ? term(base + lane) : 0.0;
#else
    double value[kLanes];
    for (int l = 0; l < width; ++l) value[l] = term(base + l);
#endif
    for (int l = 0; l < width; ++l) {
#ifdef __CUDA_ARCH__
      const double v = __shfl_sync(0xffffffffu, mine, l);
#else
      const double v = value[l];
#endif
      sum += v;
      if (v > 0.0) last = base + l;
      if (sum > target) return base + l;
    }
  }
  return last;
}

// Records the smallest offending index; *first starts at INT64_MAX. May be called by any lanes, at the same time.
CURBENCH_HD void report(int64_t* first, int64_t index) {
#ifdef __CUDA_ARCH__
  atomicMin(reinterpret_cast<long long*>(first), static_cast<long long>(index));
#else
  int64_t seen = __atomic_load_n(first, __ATOMIC_RELAXED);
  while (index < seen && !__atomic_compare_exchange_n(first, &seen, index, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
#endif
}

// *sum += term, for any lanes at the same time; returns what it was. Whole numbers, so the order cannot matter.
CURBENCH_HD uint64_t add_to(uint64_t* sum, uint64_t term) {
#ifdef __CUDA_ARCH__
  return atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(term));
#else
  return __atomic_fetch_add(sum, term, __ATOMIC_RELAXED);
#endif
}

CURBENCH_HD bool finite(double x) { return x - x == 0.0; }

}  // namespace curbench
