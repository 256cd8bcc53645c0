// Sums over many rows in two more levels: 1024 rows make a block, 1024 blocks a span. Prefix sums in double keep a
// draw exact for any number of rows, and their order is fixed.
#pragma once

#include "lanes.h"

namespace curbench {

struct Prefix {
  double* mass;    // [blocks], filled by the op that owns the rows
  double* within;  // [blocks]: running sum of mass inside a span
  double* top;     // [spans]: running sum over spans
  int64_t blocks;

  CURBENCH_HD int64_t spans() const { return ceil_div(blocks, kBlock); }
};

CURBENCH_HD int64_t block_length(int64_t rows, int64_t t) {
  return rows - t * kBlock < kBlock ? rows - t * kBlock : kBlock;
}

struct ScanSpan {
  Prefix p;

  CURBENCH_HD void operator()(int64_t s) const {
    if (!leader()) return;
    double sum = 0.0;
    for (int64_t t = s * kBlock; t < s * kBlock + block_length(p.blocks, s); ++t) p.within[t] = sum += p.mass[t];
  }
};

struct ScanTop {
  Prefix p;

  CURBENCH_HD void operator()(int64_t) const {
    if (!leader()) return;
    double sum = 0.0;
    for (int64_t s = 0; s < p.spans(); ++s) {
      const int64_t last = s * kBlock + block_length(p.blocks, s) - 1;
      p.top[s] = sum += p.within[last];
    }
  }
};

// Fills within and top from mass, and returns the total.
template <class Launch>
double scan(const Launch& launch, const Prefix& p) {
  launch(p.spans(), ScanSpan{p});
  launch(1, ScanTop{p});
  double total;
  launch.read(&total, p.top + p.spans() - 1, 1);
  return total;
}

// First i with running[i] > target; if rounding put target past the end, the first i that reaches the last value.
CURBENCH_HD int64_t first_above(const double* running, int64_t n, double target) {
  const double end = running[n - 1];
  const bool past = !(target < end);
  int64_t low = 0, high = n - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (past ? running[middle] >= end : running[middle] > target)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The row where the prefix sum of term over all rows passes target.
template <class Term>
CURBENCH_HD int64_t locate(const Prefix& p, int64_t rows, double target, Term term) {
  const int64_t s = first_above(p.top, p.spans(), target);
  if (s > 0) target -= p.top[s - 1];
  const double* within = p.within + s * kBlock;
  const int64_t t = first_above(within, block_length(p.blocks, s), target);
  if (t > 0) target -= within[t - 1];
  const int64_t base = (s * kBlock + t) * kBlock;
  return base + lane_walk(block_length(rows, s * kBlock + t), target, [=](int64_t i) { return term(base + i); });
}

struct FoldSum {
  const double* value;
  int64_t n;
  double* out;

  CURBENCH_HD void operator()(int64_t) const {
    const double* v = value;
    const double sum = lane_sum(n, [=](int64_t i) { return v[i]; });
    if (leader()) *out = sum;
  }
};

struct FoldMax {
  const double* value;
  int64_t n;
  double* out;

  CURBENCH_HD void operator()(int64_t) const {
    const double* v = value;
    const double top = lane_max(n, [=](int64_t i) { return v[i]; });
    if (leader()) *out = top;
  }
};

}  // namespace curbench
