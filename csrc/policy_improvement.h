// Importance ratio of every rollout and utility of every group, from old and new log-probabilities.
//
//   log rho_t = new_t - old_t       ratio = exp(mean_t log rho_t) | exp(sum_t log rho_t) | mean_t rho_t
//   utility   = mean_i (ratio_i - 1) A_i  |  mean_i ratio_i A_i
//
// First one item per row, then one per group. Per token the arithmetic is float: new_t - old_t, which is exact when
// the two are within a factor of two, and rho_t - 1, which does not cancel. Sums are double. Moves 9 bytes per token
// with a mask of bytes, 8 per valid token with lengths or packed rows; half of the 8 for bfloat16.
#pragma once

#include "exponential.h"
#include "groups.h"
#include "kernels.h"
#include "lanes.h"

namespace curbench {

// Where the tokens of a row are.
struct Row {
  int64_t fresh, old, mask;  // first entry of each
  int64_t width;             // -1 when the length or the bounds are wrong
};

CURBENCH_HD Row row_of(const PolicyImprovement& a, int64_t r) {
  if (a.bound != nullptr) {
    const int64_t first = a.bound[r], end = a.bound[r + 1];
    const bool starts = r > 0 ? first >= 0 : first == 0;
    const bool ends = r + 1 < a.groups.slots ? end <= a.tokens : end == a.tokens;
    return {first, first, first, starts && ends && first <= end ? end - first : -1};
  }
  const int64_t n = a.length == nullptr ? a.tokens : a.length[r];
  return {r * a.new_stride, r * a.old_stride, r * a.mask_stride, 0 <= n && n <= a.tokens ? n : -1};
}

// Ends a row: `sum` is that of log rho, or of rho - 1, over n tokens.
CURBENCH_HD void finish_row(const PolicyImprovement& a, int64_t r, int64_t n, double sum) {
  const double count = static_cast<double>(n);
  double ratio = 1.0;  // an empty rollout has not changed
  if (n > 0 && a.kind == RatioKind::kTokenMean)
    ratio += sum / count;
  else if (n > 0)
    ratio = exponential(a.kind == RatioKind::kSequence ? sum : sum / count);
  if (ratio > a.clip_high) ratio = a.clip_high;
  if (ratio < a.clip_low) ratio = a.clip_low;
  if (!leader()) return;
  if (!finite(ratio)) report(a.fault + 1, r);
  a.ratio[r] = ratio;
  a.token_count[r] = n;
}

struct RatioOfRow {
  PolicyImprovement a;

  CURBENCH_HD void operator()(int64_t r) const {
    const Row row = row_of(a, r);
    if (row.width < 0) {
      if (leader()) report(a.fault, r);
      return;
    }
    if (a.new_bf16)
      with_old(r, row, static_cast<const uint16_t*>(a.new_logprob) + row.fresh);
    else
      with_old(r, row, static_cast<const float*>(a.new_logprob) + row.fresh);
  }

  template <class New>
  CURBENCH_HD void with_old(int64_t r, const Row& row, const New* fresh) const {
    if (a.old_bf16)
      with_mask(r, row, fresh, static_cast<const uint16_t*>(a.old_logprob) + row.old);
    else
      with_mask(r, row, fresh, static_cast<const float*>(a.old_logprob) + row.old);
  }

  // Padding may hold anything, NaN too, so it is replaced and never multiplied by zero: as bits, which the compiler
  // does many at a time. log rho is 0 there, and rho - 1 is exactly 0 as well.
  template <class New, class Old>
  CURBENCH_HD void with_mask(int64_t r, const Row& row, const New* fresh, const Old* old) const {
    if (a.mask == nullptr) {
      sum_row(r, row.width, row.width, [=](int64_t t) { return widen(fresh[t]) - widen(old[t]); });
    } else if (a.wide_mask) {
      masked(r, row.width, fresh, old, static_cast<const int64_t*>(a.mask) + row.mask);
    } else {
      masked(r, row.width, fresh, old, static_cast<const uint8_t*>(a.mask) + row.mask);
    }
  }

  template <class New, class Old, class Mask>
  CURBENCH_HD void masked(int64_t r, int64_t width, const New* fresh, const Old* old, const Mask* mask) const {
    const int64_t n = lane_count(width, [=](int64_t t) { return mask[t] != 0; });
    sum_row(r, width, n, [=](int64_t t) {
      const uint32_t keep = mask[t] != 0 ? 0xFFFFFFFFu : 0u;
      return from_bits(bits_of(widen(fresh[t]) - widen(old[t])) & keep);
    });
  }

  template <class LogRho>
  CURBENCH_HD void sum_row(int64_t r, int64_t width, int64_t n, LogRho log_rho) const {
    if (a.kind != RatioKind::kTokenMean) {
      finish_row(a, r, n, lane_sum(width, [=](int64_t t) { return static_cast<double>(log_rho(t)); }));
      return;
    }
    double sum = lane_sum(width, [=](int64_t t) { return exponential_minus_one(log_rho(t)); });
    // A token whose ratio leaves the range of float is rare enough to visit its row again.
    if (!finite(sum)) sum = lane_sum(width, [=](int64_t t) { return exponential(log_rho(t)) - 1.0; });
    finish_row(a, r, n, sum);
  }
};

struct UtilityOfGroup {
  PolicyImprovement a;

  CURBENCH_HD void operator()(int64_t b) const {
    const Span span = span_of(a.groups, b);
    if (span.n == 0) {
      if (leader()) report(a.fault + 2, b);
      return;
    }
    if (!all_exist(a.groups, span)) {
      if (leader()) report(a.fault + 4, b);
      return;
    }
    const double* ratio = a.ratio;
    const double* advantage = a.advantage;
    const Slots slot = {a.groups.order, span.first};
    const double unchanged = a.surrogate ? 0.0 : 1.0;
    const double sum = lane_sum(span.n, [=](int64_t i) { return (ratio[slot[i]] - unchanged) * advantage[slot[i]]; });
    if (!leader()) return;
    const double utility = sum / static_cast<double>(span.n);
    if (!finite(utility)) report(a.fault + 3, b);
    a.utility[b] = utility;
  }
};

// Rows is RatioOfRow, or something faster that has its bits.
template <class Rows = RatioOfRow, class Launch>
void policy_improvement(const Launch& launch, const PolicyImprovement& args) {
  launch(args.groups.slots, Rows{{args}});
  launch(args.groups.count, UtilityOfGroup{args});
}

}  // namespace curbench
