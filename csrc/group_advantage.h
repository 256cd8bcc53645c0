// Statistics and advantages of one group.
//
//   mean = sum r / n      var = sum (r - mean)^2 / (n - ddof)      A = scale * (r - mean)
//   scale = 1 / (sqrt(var) + eps)   GRPO
//           1                       Dr. GRPO
//           n / (n - 1)             RLOO: r minus the mean of the others, rewritten
//
// One item per group, everything in double, two passes so that the mean is known before the variance. Equal rewards
// are recognised by ==: their mean can be off by an ulp, and dividing that by eps makes advantages out of nothing.
// Moves 8 bytes per slot for float rewards (4 read, 4 written; the passes hit the cache).
#pragma once

#include "groups.h"
#include "kernels.h"
#include "lanes.h"

namespace curbench {

template <class T>
struct AdvantageOfGroup {
  GroupAdvantage a;

  CURBENCH_HD void operator()(int64_t b) const {
    const Span span = span_of(a.groups, b);
    if (span.n == 0) {
      if (leader()) report(a.fault + 1, b);
      return;
    }
    // Constants let the compiler unroll the sizes that people use; the arithmetic is the same.
    if (span.n == 8) {
      group(b, span.first, 8);
    } else if (span.n == 16) {
      group(b, span.first, 16);
    } else {
      group(b, span.first, span.n);
    }
  }

  CURBENCH_HD void group(int64_t b, int64_t first, int64_t n) const {
    const T* reward = static_cast<const T*>(a.reward) + first;
    T* advantage = static_cast<T*>(a.advantage) + first;
    const auto at = [=](int64_t i) { return static_cast<double>(reward[i]); };

    const double count = static_cast<double>(n);
    const double centre = lane_sum(n, at) / count;
    const double squares = lane_sum(n, [=](int64_t i) { return (reward[i] - centre) * (reward[i] - centre); });
    const bool degenerate = squares <= rounding_of_equals(count, centre) && all_equal(reward, n);
    const double mean = degenerate ? reward[0] : centre;
    const double var = degenerate ? 0.0 : squares / static_cast<double>(n - a.ddof);
    const double scale = degenerate ? 0.0 : scale_of(count, var);
    const double total = lane_sum(n, [=](int64_t i) {
      const double value = scale * (reward[i] - mean);
      advantage[i] = static_cast<T>(value);
      return fabs(value);
    });

    if (!finite(mean)) report_slot(reward, first, n);
    if (a.success != nullptr) {
      const uint8_t* success = a.success + first;
      const int64_t successes = lane_count(n, [=](int64_t i) { return success[i] != 0; });
      if (leader()) a.success_count[b] = successes;
    }
    if (!leader()) return;
    if (n == 1) report(a.fault + 2, b);
    a.n[b] = n;
    a.mean[b] = mean;
    a.var[b] = var;
    a.degenerate[b] = degenerate;
    a.abs_advantage[b] = total / count;
  }

  // Rounding leaves the mean of equal rewards within count * 2^-52 of them, relatively; more than this is a spread.
  CURBENCH_HD static double rounding_of_equals(double count, double centre) {
    const double error = count * 0x1p-52 * centre;
    return count * error * error;
  }

  CURBENCH_HD static bool all_equal(const T* reward, int64_t n) {
    const T any = reward[0];
    return lane_count(n, [=](int64_t i) { return reward[i] != any; }) == 0;
  }

  CURBENCH_HD double scale_of(double count, double var) const {
    if (a.estimator == Estimator::kGrpo) return 1.0 / (sqrt(var) + a.eps);
    if (a.estimator == Estimator::kRloo) return count / (count - 1.0);
    return 1.0;
  }

  // The first slot that is not finite; the first slot of the group when finite rewards overflowed in the sum.
  CURBENCH_HD void report_slot(const T* reward, int64_t first, int64_t n) const {
    int64_t bad = 0;
    for (int64_t i = n - 1; i >= 0; --i)
      if (!finite(reward[i])) bad = i;
    if (leader()) report(a.fault, first + bad);
  }
};

template <class Launch>
void group_advantage(const Launch& launch, const GroupAdvantage& args) {
  if (args.is_double)
    launch(args.groups.count, AdvantageOfGroup<double>{args});
  else
    launch(args.groups.count, AdvantageOfGroup<float>{args});
}

}  // namespace curbench
