// Importance ratio of every rollout and utility of every group, from old and new log-probabilities.
//
//   log rho_t = new_t - old_t       ratio = exp(mean_t log rho_t) | exp(sum_t log rho_t) | mean_t rho_t
//   utility   = mean_i (ratio_i - 1) A_i
//
// First one item per row, then one per group. Per token the arithmetic is float: new_t - old_t, which is exact when
// the two are within a factor of two, and rho_t - 1, which does not cancel. Sums are double. Moves 9 bytes per token
// with a mask, 8 per valid token with lengths.
#pragma once

#include "exponential.h"
#include "groups.h"
#include "kernels.h"
#include "lanes.h"

namespace curbench {

struct RatioOfRow {
  PolicyImprovement a;

  CURBENCH_HD void operator()(int64_t r) const {
    const float* fresh = a.new_logprob + r * a.new_stride;
    const float* old = a.old_logprob + r * a.old_stride;
    // Padding may hold anything, NaN too, so it is replaced and never multiplied by zero.
    if (a.length == nullptr) {
      const uint8_t* mask = a.mask + r * a.mask_stride;
      const int64_t n = lane_count(a.tokens, [=](int64_t t) { return mask[t] != 0; });
      const auto log_rho = [=](int64_t t) {
        const uint32_t keep = mask[t] != 0 ? 0xFFFFFFFFu : 0u;  // as bits, so that the CPU masks 8 floats at once
        return from_bits(bits_of(fresh[t] - old[t]) & keep);
      };
      row(r, a.tokens, n, log_rho);
      return;
    }
    const int64_t n = a.length[r];
    if (n < 0 || n > a.tokens) {
      if (leader()) report(a.fault, r);
      return;
    }
    row(r, n, n, [=](int64_t t) { return fresh[t] - old[t]; });
  }

  // log_rho is 0 at padding, where rho - 1 is exactly 0 as well.
  template <class LogRho>
  CURBENCH_HD void row(int64_t r, int64_t width, int64_t n, LogRho log_rho) const {
    const double count = static_cast<double>(n);
    double ratio = 1.0;  // an empty rollout has not changed
    if (n > 0 && a.kind == RatioKind::kTokenMean) {
      ratio += lane_sum(width, [=](int64_t t) { return exponential_minus_one(log_rho(t)); }) / count;
    } else if (n > 0) {
      const double sum = lane_sum(width, [=](int64_t t) { return static_cast<double>(log_rho(t)); });
      ratio = exponential(a.kind == RatioKind::kSequence ? sum : sum / count);
    }
    if (ratio > a.clip) ratio = a.clip;
    if (!leader()) return;
    if (!finite(ratio)) report(a.fault + 1, r);
    a.ratio[r] = ratio;
    a.token_count[r] = n;
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
    const double sum = lane_sum(span.n, [=](int64_t i) { return (ratio[slot[i]] - 1.0) * advantage[slot[i]]; });
    if (!leader()) return;
    const double utility = sum / static_cast<double>(span.n);
    if (!finite(utility)) report(a.fault + 3, b);
    a.utility[b] = utility;
  }
};

template <class Launch>
void policy_improvement(const Launch& launch, const PolicyImprovement& args) {
  launch(args.groups.slots, RatioOfRow{args});
  launch(args.groups.count, UtilityOfGroup{args});
}

}  // namespace curbench
