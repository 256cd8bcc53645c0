// Statistics and advantages of one group.
//
//   mean = sum r / n      var = sum (r - mean)^2 / (n - ddof)      A = scale * (r - mean)
//   scale = 1 / std of the group, or of the batch      GRPO
//           1                                          Dr. GRPO
//           n / (n - 1)                                RLOO: r minus the mean of the others, rewritten
//           n / (n - 1) / std of the others            RLOO, standardised
//
// where 1 / std has an epsilon in it, see inverse_of. One item per group, everything in double, two passes so that the
// mean is known before the variance. Equal rewards are recognised by ==: their mean can be off by an ulp, and dividing
// that by eps makes advantages out of nothing. Moves 8 bytes per slot for float rewards (4 read, 4 written; the passes
// hit the cache). The std of the batch needs the statistics of all groups first, hence three launches.
#pragma once

#include "blocks.h"
#include "groups.h"
#include "kernels.h"
#include "lanes.h"

namespace curbench {

struct Moments {
  int64_t n;  // that have a value
  double mean;
  double squares;  // sum of (x - mean)^2, exactly 0 if all are equal
  bool degenerate;
};

// Rounding leaves the mean of equal rewards within count * 2^-52 of them, relatively; more than this is a spread.
CURBENCH_HD double rounding_of_equals(double count, double centre) {
  const double error = count * 0x1p-52 * centre;
  return count * error * error;
}

// Moments of at(i) over the `scored` i < n with valid(i). `mean` is NaN if there are none.
template <class At, class Valid>
CURBENCH_HD Moments moments_of(int64_t n, int64_t scored, At at, Valid valid) {
  const double count = static_cast<double>(scored);
  const double centre = lane_sum(n, [=](int64_t i) { return valid(i) ? at(i) : 0.0; }) / count;
  const double squares =
      lane_sum(n, [=](int64_t i) { return valid(i) ? (at(i) - centre) * (at(i) - centre) : 0.0; });
  if (scored > 0 && !(squares <= rounding_of_equals(count, centre))) return {scored, centre, squares, false};
  const double top = lane_max(n, [=](int64_t i) { return valid(i) ? at(i) : -HUGE_VAL; });
  if (lane_count(n, [=](int64_t i) { return valid(i) && at(i) != top; }) != 0) return {scored, centre, squares, false};
  return {scored, scored > 0 ? top : centre, 0.0, true};
}

// How a standard deviation divides.
CURBENCH_HD double inverse_of(const GroupAdvantage& a, double var) {
  if (a.eps_mode == EpsMode::kUnlessZero) return var > 0.0 ? 1.0 / (sqrt(var) + a.eps) : 1.0;
  const double floored = a.eps_mode == EpsMode::kFloorVariance && !(var > a.eps) ? a.eps : var;
  return 1.0 / (sqrt(floored) + a.eps);
}

enum class Stage : int { kAll, kStatistics, kAdvantage };

template <class T>
struct AdvantageOfGroup {
  GroupAdvantage a;
  Stage stage;

  CURBENCH_HD void operator()(int64_t b) const {
    const Span span = span_of(a.groups, b);
    if (span.n == 0) {
      if (leader()) report(a.fault + 1, b);
      return;
    }
    if (all_exist(a.groups, span))
      group(b, {a.groups.order, span.first}, span.n);
    else if (leader())
      report(a.fault + 3, b);
  }

  CURBENCH_HD void group(int64_t b, Slots slot, int64_t n) const {
    const T* reward = static_cast<const T*>(a.reward);
    const bool skip = a.skip_nan;
    const auto valid = [=](int64_t i) { return !skip || reward[slot[i]] == reward[slot[i]]; };

    Moments m, of_std;
    if (stage == Stage::kAdvantage) {
      m = {a.n[b], a.mean[b], 0.0, a.degenerate[b] != 0};  // the squares have gone into the variance of the batch
    } else {
      const int64_t scored = skip ? lane_count(n, valid) : n;
      const int vectors = a.std_reward != nullptr ? 2 : 1;
      for (int v = 0; v < vectors; ++v) {
        const T* value = static_cast<const T*>(v == 0 ? a.reward : a.std_reward);
        of_std = moments_of(n, scored, [=](int64_t i) { return static_cast<double>(value[slot[i]]); }, valid);
        if (!finite(of_std.mean) && scored > 0) report_slot(value, slot, n, a.fault + (v == 0 ? 0 : 4));
        if (v == 0) m = of_std;
      }
      statistics(b, slot, n, m);
    }
    if (stage == Stage::kStatistics) {
      if (!leader()) return;
      a.workspace[b] = of_std.mean;
      a.workspace[a.groups.count + b] = of_std.squares;
      return;
    }
    const double total = advantages(b, slot, n, m, of_std);
    if (leader()) a.abs_advantage[b] = m.n > 0 ? total / static_cast<double>(m.n) : 0.0;
  }

  CURBENCH_HD void statistics(int64_t b, Slots slot, int64_t n, const Moments& m) const {
    if (a.success != nullptr) {
      const uint8_t* success = a.success;
      const int64_t successes = lane_count(n, [=](int64_t i) { return success[slot[i]] != 0; });
      if (leader()) a.success_count[b] = successes;
    }
    if (!leader()) return;
    if (m.n == 1) report(a.fault + 2, b);
    a.n[b] = m.n;
    a.mean[b] = m.mean;
    a.var[b] = m.degenerate ? 0.0 : m.squares / static_cast<double>(m.n - a.ddof);
    a.degenerate[b] = m.degenerate;
  }

  // Writes them and returns the sum of their absolute values.
  CURBENCH_HD double advantages(int64_t b, Slots slot, int64_t n, const Moments& m, const Moments& of_std) const {
    const bool raw = m.n == 1 && a.singleton_raw;
    const double mean = raw ? 0.0 : m.mean;
    if (a.estimator == Estimator::kRlooStd && !m.degenerate) return standardised_by_others(slot, n, m, of_std);
    return write(slot, n, mean, m.degenerate && !raw ? 0.0 : scale_of(m, of_std));
  }

  CURBENCH_HD double scale_of(const Moments& m, const Moments& of_std) const {
    const double count = static_cast<double>(m.n);
    const bool one = m.n == 1;  // only when raw: its standard deviation counts as 1
    switch (a.estimator) {
      case Estimator::kGrpo:
        return inverse_of(a, one ? 1.0 : variance(of_std));
      case Estimator::kGrpoBatch:
        return inverse_of(a, a.workspace[2 * a.groups.count]);
      case Estimator::kRloo:
        return one ? 1.0 : count / (count - 1.0);
      case Estimator::kRlooStd:
        return inverse_of(a, 1.0);
      default:
        return 1.0;
    }
  }

  CURBENCH_HD double variance(const Moments& m) const {
    return m.degenerate ? 0.0 : m.squares / static_cast<double>(m.n - a.ddof);
  }

  CURBENCH_HD double write(Slots slot, int64_t n, double mean, double scale) const {
    const T* reward = static_cast<const T*>(a.reward);
    T* advantage = static_cast<T*>(a.advantage);
    const bool skip = a.skip_nan;
    return lane_sum(n, [=](int64_t i) {
      const double x = reward[slot[i]];
      const double value = skip && x != x ? 0.0 : scale * (x - mean);
      advantage[slot[i]] = static_cast<T>(value);
      return fabs(value);
    });
  }

  // Each slot has a standard deviation of its own, that of the other slots.
  CURBENCH_HD double standardised_by_others(Slots slot, int64_t n, const Moments& m, const Moments& of_std) const {
    const T* reward = static_cast<const T*>(a.reward);
    const T* spread = static_cast<const T*>(a.std_reward != nullptr ? a.std_reward : a.reward);
    T* advantage = static_cast<T*>(a.advantage);
    const AdvantageOfGroup* self = this;
    const double factor = static_cast<double>(m.n) / (static_cast<double>(m.n) - 1.0);
    return lane_sum(n, [=](int64_t i) {
      const double x = reward[slot[i]];
      const double var = self->variance_of_others(spread, slot, n, i, of_std);
      const double value = x != x && self->a.skip_nan ? 0.0 : inverse_of(self->a, var) * (factor * (x - m.mean));
      advantage[slot[i]] = static_cast<T>(value);
      return fabs(value);
    });
  }

  // squares - n / (n - 1) (x_i - mean)^2 is their sum of squares, but cancels when i is the outlier: then, which can
  // be so for few i, the others are visited one by one.
  CURBENCH_HD double variance_of_others(const T* x, Slots slot, int64_t n, int64_t i, const Moments& m) const {
    const double others = static_cast<double>(m.n - 1), own = x[slot[i]] - m.mean;
    const double taken = static_cast<double>(m.n) / others * own * own;
    const double divisor = others - static_cast<double>(a.ddof);
    if (m.degenerate || divisor <= 0.0) return 0.0;
    if (taken <= 0.5 * m.squares) return (m.squares - taken) / divisor;
    const T* reward = static_cast<const T*>(a.reward);
    double sum = 0.0, squares = 0.0, low = HUGE_VAL, high = -HUGE_VAL;
    for (int64_t j = 0; j < n; ++j) {
      if (j == i || (a.skip_nan && reward[slot[j]] != reward[slot[j]])) continue;
      const double value = x[slot[j]];
      sum += value;
      low = value < low ? value : low;
      high = value > high ? value : high;
    }
    if (low == high) return 0.0;
    const double centre = sum / others;
    for (int64_t j = 0; j < n; ++j)
      if (j != i && !(a.skip_nan && reward[slot[j]] != reward[slot[j]]))
        squares += (x[slot[j]] - centre) * (x[slot[j]] - centre);
    return squares / divisor;
  }

  // The first slot that is not finite (NaN that is skipped counts as such); the first slot of the group when finite
  // rewards overflowed in the sum.
  CURBENCH_HD void report_slot(const T* value, Slots slot, int64_t n, int64_t* fault) const {
    const T* reward = static_cast<const T*>(a.reward);
    int64_t bad = -1;
    for (int64_t i = 0; i < n; ++i) {
      const bool skipped = a.skip_nan && reward[slot[i]] != reward[slot[i]];
      if (!skipped && !finite(value[slot[i]]) && (bad < 0 || slot[i] < bad)) bad = slot[i];
    }
    if (leader()) report(fault, bad < 0 ? slot[0] : bad);
  }
};

// Sums over the groups of a block: of n and n * mean, then of the squares about the mean of all.
struct BatchOfBlock {
  GroupAdvantage a;
  double* fold;  // [3]: n, sum, squares of the batch
  double* part;  // [2 * blocks]
  int64_t blocks;
  bool squares;

  CURBENCH_HD void operator()(int64_t t) const {
    const int64_t* n = a.n + t * kBlock;
    const double* mean = a.workspace + t * kBlock;
    const double* within = mean + a.groups.count;
    const int64_t width = block_length(a.groups.count, t);
    const auto total = [=](int64_t i) { return n[i] > 0 ? static_cast<double>(n[i]) * mean[i] : 0.0; };
    if (squares) {
      const double centre = fold[1] / fold[0];
      const double sum = lane_sum(width, [=](int64_t i) {
        const double off = mean[i] - centre;
        return n[i] > 0 ? within[i] + static_cast<double>(n[i]) * (off * off) : 0.0;
      });
      if (leader()) part[t] = sum;
    } else {
      const double count = lane_sum(width, [=](int64_t i) { return static_cast<double>(n[i]); });
      const double sum = lane_sum(width, total);
      if (!leader()) return;
      part[t] = count;
      part[blocks + t] = sum;
    }
  }
};

struct BatchVariance {
  GroupAdvantage a;
  const double* fold;

  CURBENCH_HD void operator()(int64_t) const {
    const double divisor = fold[0] - static_cast<double>(a.ddof);
    if (leader()) a.workspace[2 * a.groups.count] = divisor > 0.0 ? fold[2] / divisor : 0.0;
  }
};

inline int64_t advantage_workspace(Estimator estimator, int64_t groups) {
  return estimator == Estimator::kGrpoBatch ? 2 * groups + 4 + 2 * ceil_div(groups, kBlock) : 0;
}

// Groups is AdvantageOfGroup, or something faster that has its bits.
template <template <class> class Groups, class T, class Launch>
void advantage_of_groups(const Launch& launch, const GroupAdvantage& args) {
  const int64_t count = args.groups.count;
  if (args.estimator != Estimator::kGrpoBatch) return launch(count, Groups<T>{{args, Stage::kAll}});

  const int64_t blocks = ceil_div(count, kBlock);
  double* fold = args.workspace + 2 * count + 1;
  double* part = fold + 3;
  launch(count, Groups<T>{{args, Stage::kStatistics}});
  launch(blocks, BatchOfBlock{args, fold, part, blocks, false});
  launch(1, FoldSum{part, blocks, fold});
  launch(1, FoldSum{part + blocks, blocks, fold + 1});
  launch(blocks, BatchOfBlock{args, fold, part, blocks, true});
  launch(1, FoldSum{part, blocks, fold + 2});
  launch(1, BatchVariance{args, fold});
  launch(count, Groups<T>{{args, Stage::kAdvantage}});
}

template <class T>
struct PlainGroups : AdvantageOfGroup<T> {};

template <template <class> class Groups = PlainGroups, class Launch>
void group_advantage(const Launch& launch, const GroupAdvantage& args) {
  if (args.is_double)
    advantage_of_groups<Groups, double>(launch, args);
  else
    advantage_of_groups<Groups, float>(launch, args);
}

}  // namespace curbench
