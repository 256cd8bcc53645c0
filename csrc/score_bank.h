// Score every candidate with a linear head, and draw `count` of them from the softmax of the scores.
//
//   s = (feature . weight + bias) / temperature       p = softmax(s)       q = (1 - floor) p + floor / M
//
// iid: independent draws with replacement, by the inverse of the prefix sums of q; propensity q.
// systematic: without replacement, propensity pi = min(1, c q) with sum pi = count. Candidates with pi = 1 come
// first; the others are where count equally spaced points with one random offset fall in the prefix sums of q
// (Madow, "On the theory of systematic sampling", 1949).
//
// Moves 4 F bytes per candidate once, then 4 bytes per candidate and pass over the scores.
#pragma once

#include "blocks.h"
#include "exponential.h"
#include "kernels.h"
#include "philox.h"

namespace curbench {

// A candidate drawn with probability above 1 - 2^-30 is taken for certain: the others are then far enough from 1
// that rounding in the prefix sums cannot make one of them be hit twice.
constexpr double kCertain = 1.0 - 0x1p-30;

struct Bank {
  ScoreBank a;
  double* block_top;  // [blocks]: largest score
  double* top;        // [1]: largest of all
  Prefix weight;      // sums of exp(s - top)
  Prefix rest;        // sums of q over candidates that are not certain
  Prefix certain;     // numbers of candidates that are

  CURBENCH_HD double probability(double score, double normaliser) const {
    return exponential(score - *top) / normaliser;
  }

  CURBENCH_HD double normaliser() const { return weight.top[weight.spans() - 1]; }

  CURBENCH_HD double with_floor(double p, int64_t rows) const {
    return (1.0 - a.floor) * p + a.floor * static_cast<double>(rows) / static_cast<double>(a.rows);
  }
};

struct ScoreRow {
  ScoreBank a;

  CURBENCH_HD void operator()(int64_t i) const {
    const float* feature = row(i);
    if (feature == nullptr) return;
    const double* weight = a.weight;
    finish(i, lane_sum(a.features, [=](int64_t f) { return feature[f] * weight[f]; }));
  }

  // Null, and reported, when the candidate is outside the bank.
  CURBENCH_HD const float* row(int64_t i) const {
    const int64_t problem = a.candidate == nullptr ? i : a.candidate[i];
    if (0 <= problem && problem < a.problems) return a.feature + problem * a.stride;
    if (leader()) report(a.fault, i);
    return nullptr;
  }

  CURBENCH_HD void finish(int64_t i, double dot) const {
    const float score = static_cast<float>((dot + a.bias) / a.temperature);
    if (!leader()) return;
    if (!finite(score)) report(a.fault + 1, i);
    a.score[i] = score;
  }
};

struct TopOfBlock {
  Bank bank;

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = bank.a.score + t * kBlock;
    const double top =
        lane_max(block_length(bank.a.rows, t), [=](int64_t i) { return static_cast<double>(score[i]); });
    if (leader()) bank.block_top[t] = top;
  }
};

struct WeightOfBlock {
  Bank bank;

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = bank.a.score + t * kBlock;
    const double top = *bank.top;
    const double sum = lane_sum(block_length(bank.a.rows, t), [=](int64_t i) { return exponential(score[i] - top); });
    if (leader()) bank.weight.mass[t] = sum;
  }
};

// Splits a block at the threshold: q >= threshold is certain, the rest is left to the draw.
struct SplitBlock {
  Bank bank;
  double threshold;

  CURBENCH_HD void operator()(int64_t t) const {
    const int64_t n = block_length(bank.a.rows, t);
    const double normaliser = bank.normaliser();
    double rest, certain = 0.0;
    if (bank.with_floor(bank.probability(bank.block_top[t], normaliser), 1) < threshold) {
      rest = bank.with_floor(bank.weight.mass[t] / normaliser, n);
    } else {
      const float* score = bank.a.score + t * kBlock;
      const double limit = threshold;
      const auto q = [=](int64_t i) { return bank.with_floor(bank.probability(score[i], normaliser), 1); };
      rest = lane_sum(n, [=](int64_t i) { return q(i) < limit ? q(i) : 0.0; });
      certain = static_cast<double>(lane_count(n, [=](int64_t i) { return q(i) >= limit; }));
    }
    if (!leader()) return;
    bank.rest.mass[t] = rest;
    bank.certain.mass[t] = certain;
  }
};

struct DrawSlot {
  Bank bank;
  double threshold;
  double rest;
  int64_t certain;

  CURBENCH_HD void operator()(int64_t k) const {
    const ScoreBank& a = bank.a;
    const double normaliser = bank.normaliser();
    const auto q = [=](int64_t i) { return bank.with_floor(bank.probability(a.score[i], normaliser), 1); };
    const double limit = threshold;

    int64_t row;
    if (k < certain) {
      row = locate(bank.certain, a.rows, static_cast<double>(k) + 0.5,
                   [=](int64_t i) { return q(i) >= limit ? 1.0 : 0.0; });
    } else {
      row = locate(bank.rest, a.rows, point(k) * rest, [=](int64_t i) { return q(i) < limit ? q(i) : 0.0; });
    }
    if (!leader()) return;
    const double drawn = q(row);
    a.problem[k] = a.candidate == nullptr ? row : a.candidate[row];
    a.probability[k] = bank.probability(a.score[row], normaliser);
    if (a.design == Design::kIid)
      a.propensity[k] = drawn;
    else
      a.propensity[k] = k < certain ? 1.0 : drawn * static_cast<double>(a.count - certain) / rest;
  }

  // In [0, 1).
  CURBENCH_HD double point(int64_t k) const {
    const ScoreBank& a = bank.a;
    if (a.design == Design::kIid) return uniform(a.seed, kDraw, a.step, static_cast<uint64_t>(k));
    const double offset = uniform(a.seed, kSystematic, a.step, 0);
    return (offset + static_cast<double>(k - certain)) / static_cast<double>(a.count - certain);
  }
};

inline int64_t bank_workspace(int64_t rows) {
  const int64_t blocks = ceil_div(rows, kBlock);
  return 1 + 7 * blocks + 3 * ceil_div(blocks, kBlock);
}

inline Bank bank_of(const ScoreBank& args) {
  const int64_t blocks = ceil_div(args.rows, kBlock), spans = ceil_div(blocks, kBlock);
  double* free = args.workspace;
  const auto take = [&](int64_t n) {
    double* start = free;
    free += n;
    return start;
  };
  const auto prefix = [&] { return Prefix{take(blocks), take(blocks), take(spans), blocks}; };
  double* top = take(1);
  double* block_top = take(blocks);
  return {args, block_top, top, prefix(), prefix(), prefix()};
}

// Rows is ScoreRow, or something faster that has its bits.
template <class Rows = ScoreRow, class Launch>
BankTotals score_bank(const Launch& launch, const ScoreBank& args) {
  const Bank bank = bank_of(args);
  const int64_t blocks = bank.weight.blocks;
  launch(args.rows, Rows{ScoreRow{args}});
  int64_t fault[2];
  launch.read(fault, args.fault, 2);
  if (fault[0] != INT64_MAX || fault[1] != INT64_MAX) return {0.0, -1};

  launch(blocks, TopOfBlock{bank});
  launch(1, FoldMax{bank.block_top, blocks, bank.top});
  launch(blocks, WeightOfBlock{bank});
  double top;
  launch.read(&top, bank.top, 1);
  const double log_normaliser = top + log(scan(launch, bank.weight));

  // Raise the set of certain candidates until c = (count - certain) / rest stops growing. This is Newton's method on
  // sum min(1, c q) = count, which is concave in c, so it never overshoots; it ends after a few rounds.
  double threshold = HUGE_VAL, rest, certain;
  for (;;) {
    launch(blocks, SplitBlock{bank, threshold});
    rest = scan(launch, bank.rest);
    certain = scan(launch, bank.certain);
    const double left = static_cast<double>(args.count) - certain;
    if (args.design == Design::kIid || left <= 0.0) break;
    if (rest <= 0.0) return {log_normaliser, static_cast<int64_t>(certain)};
    const double next = kCertain * rest / left;
    if (next >= threshold) break;
    threshold = next;
  }
  launch(args.count, DrawSlot{bank, threshold, rest, static_cast<int64_t>(certain)});
  return {log_normaliser, -1};
}

}  // namespace curbench
