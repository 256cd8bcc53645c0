// Score every candidate, and draw `count` of them from the softmax of the scores.
//
//   s = (head(feature) + bias) / temperature + prior         p = softmax(s), or its nucleus
//   q = (1 - floor) p + floor / M
//
// iid: independent draws with replacement, by the inverse of the prefix sums of q; propensity q.
// systematic: without replacement, propensity pi = min(1, c q) with sum pi = count. Candidates with pi = 1 come
// first; the others are where count equally spaced points with one random offset fall in the prefix sums of q
// (Madow, "On the theory of systematic sampling", 1949).
// race: without replacement, as `count` successive draws; see race.h.
//
// nucleus: the candidates of the largest p, ties by row, up to the first where their mass reaches `nucleus`
// (Holtzman et al., "The curious case of neural text degeneration", 2020). The mass is summed in multiples of 2^-62, so
// it depends on no order. It is found digit by digit of the score's bits, largest first: three histograms, no sort.
//
// One pass over the bank leaves the scores (4 bytes per candidate), and for every 1024 of them the largest and the sum
// of exp(s - largest); what follows reads the scores at most.
#pragma once

#include "activation.h"
#include "blocks.h"
#include "exponential.h"
#include "kernels.h"
#include "race.h"

namespace curbench {

// A candidate drawn with probability above 1 - 2^-30 is taken for certain: the others are then far enough from 1
// that rounding in the prefix sums cannot make one of them be hit twice.
constexpr double kCertain = 1.0 - 0x1p-30;

struct Bank {
  ScoreBank a;
  const float* score;  // what is drawn from: a.score, or a.kept, which is -inf outside of the nucleus
  double* block_top;   // [blocks]: largest score
  double* block_sum;   // [blocks]: sum of exp(s - block_top)
  double* top;         // [1]: largest of all
  Prefix weight;       // sums of exp(s - top)
  Prefix rest;         // sums of q over candidates that are not certain
  Prefix certain;      // numbers of candidates that are
  uint64_t* digits;    // [kDigitSize] of PlainBack, as the next
  Arrival* arrivals;   // [race_capacity]

  CURBENCH_HD double probability(double score, double normaliser) const {
    return exponential(score - *top) / normaliser;
  }

  CURBENCH_HD double normaliser() const { return weight.top[weight.spans() - 1]; }

  CURBENCH_HD double with_floor(double p, int64_t rows) const {
    return (1.0 - a.floor) * p + a.floor * static_cast<double>(rows) / static_cast<double>(a.rows);
  }
};


// Row of the bank of candidate i; -1, and reported, when there is none.
CURBENCH_HD int64_t problem_of(const ScoreBank& a, int64_t i) {
  const int64_t problem = a.candidate == nullptr ? i : a.candidate[i];
  if (0 <= problem && problem < a.problems) return problem;
  if (leader()) report(a.fault, i);
  return -1;
}

CURBENCH_HD float score_of(const ScoreBank& a, int64_t problem, double dot) {
  const double prior = a.prior == nullptr ? 0.0 : static_cast<double>(a.prior[problem]);
  return static_cast<float>((dot + a.bias) / a.temperature + prior);
}

// `sum` in units of the head and the row.
CURBENCH_HD double fixed_dot(const ScoreBank& a, int64_t problem, int64_t sum) {
  const double dot = static_cast<double>(sum) * a.unit;
  return a.row_scale == nullptr ? dot : dot * static_cast<double>(a.row_scale[problem]);
}

// Entry f of a row, as a number.
CURBENCH_HD float entry(const ScoreBank& a, int64_t problem, int64_t f) {
  const int64_t at = problem * a.stride + f;
  if (a.dtype == Dtype::kFloat32) return static_cast<const float*>(a.feature)[at];
  if (a.dtype == Dtype::kBfloat16) return widen(static_cast<const uint16_t*>(a.feature)[at]);
  const float value = static_cast<const int8_t*>(a.feature)[at];
  return a.row_scale == nullptr ? value : value * a.row_scale[problem];
}

CURBENCH_HD float activate(Activation activation, float x) {
  return activation == Activation::kGelu ? gelu(x) : gelu_tanh(x);
}

// The output of an MLP head for one row: hidden units one by one, each adding its products in order to its bias.
CURBENCH_HD double mlp_dot(const ScoreBank& a, int64_t problem) {
  const ScoreBank& bank = a;
  const auto unit = [=](int64_t j) {
    float sum = bank.layer_bias[j];
    for (int64_t f = 0; f < bank.features; ++f)
      sum = __builtin_fmaf(entry(bank, problem, f), bank.layer[f * bank.hidden + j], sum);
    return activate(bank.activation, sum);
  };
  const float* weight = a.weight;
  return lane_dot(a.hidden, unit, [=](int64_t j) { return weight[j]; });
}

// The product of one row with a linear head.
CURBENCH_HD double linear_dot(const ScoreBank& a, int64_t problem) {
  const float* weight = a.weight;
  if (a.dtype == Dtype::kFloat32) {
    const float* x = static_cast<const float*>(a.feature) + problem * a.stride;
    return lane_dot(a.features, [=](int64_t f) { return x[f]; }, [=](int64_t f) { return weight[f]; });
  }
  if (a.dtype == Dtype::kBfloat16) {
    const uint16_t* x = static_cast<const uint16_t*>(a.feature) + problem * a.stride;
    return lane_dot_pairs(a.features, [=](int64_t f) { return widen(x[f]); }, [=](int64_t f) { return weight[f]; });
  }
  const int8_t* x = static_cast<const int8_t*>(a.feature) + problem * a.stride;
  const int32_t* fixed = a.fixed;
  const int64_t sum = lane_fold(a.features, int64_t{0}, [=](int64_t f) { return int64_t{x[f]} * fixed[f]; },
                                [](int64_t l, int64_t r) { return l + r; });
  return fixed_dot(a, problem, sum);
}

// Every way to compute the head's output has these bits: rows of float32 and bfloat16 times a linear head in float, in
// the order of lane_dot and lane_dot_pairs; rows of int8 times a linear head in whole numbers; hidden units of an MLP
// head in float. The one exception are bfloat16 rows and an MLP head where the processor multiplies pairs of bfloat16.
CURBENCH_HD double head_dot(const ScoreBank& a, int64_t problem) {
  return a.hidden > 0 ? mlp_dot(a, problem) : linear_dot(a, problem);
}

struct ScoreRow {
  ScoreBank a;

  CURBENCH_HD void operator()(int64_t i) const {
    const int64_t problem = problem_of(a, i);
    if (problem < 0) return;
    const float score = score_of(a, problem, head_dot(a, problem));
    if (!leader()) return;
    if (!finite(score)) report(a.fault + 1, i);
    a.score[i] = score;
  }
};

struct SumBlock {
  Bank bank;

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = bank.score + t * kBlock;
    const int64_t n = block_length(bank.a.rows, t);
    const double top = lane_max(n, [=](int64_t i) { return static_cast<double>(score[i]); });
    const double from = top > -HUGE_VAL ? top : 0.0;  // a block of -inf has no weight
    const double sum = lane_sum(n, [=](int64_t i) { return exponential(score[i] - from); });
    if (!leader()) return;
    bank.block_top[t] = top;
    bank.block_sum[t] = sum;
  }
};

struct WeightOfBlock {
  Bank bank;

  CURBENCH_HD void operator()(int64_t t) const {
    if (leader()) bank.weight.mass[t] = bank.block_sum[t] * exponential(bank.block_top[t] - *bank.top);
  }
};

// Order of the scores as whole numbers.
CURBENCH_HD uint32_t ordered(float score) {
  const uint32_t bits = bits_of(score), sign = bits >> 31;
  return bits ^ (0x80000000u | (0u - sign));  // no branch, which every other score would take
}

// Mass of a candidate in multiples of 2^-62; scale is 2^62 / sum of exp(s - top).
CURBENCH_HD uint64_t fixed_mass(double score, double top, double scale) {
  return static_cast<uint64_t>(static_cast<int64_t>(exponential(score - top) * scale + 0.5));
}

// A set of candidates by the leading bits of their order.
struct Digit {
  uint32_t prefix;  // the bits above the digit
  int shift;        // where the digit begins
  int bits;         // its length

  CURBENCH_HD bool holds(uint32_t order) const { return shift + bits == 32 || order >> (shift + bits) == prefix; }
  CURBENCH_HD uint32_t of(uint32_t order) const { return order >> shift & ((1u << bits) - 1); }
};

constexpr Digit kDigits[] = {{0, 20, 12}, {0, 8, 12}, {0, 0, 8}};
constexpr int kDigitSize = 1 << 12;

struct CountTies {
  Bank bank;
  uint32_t order;

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = bank.a.score + t * kBlock;
    const uint32_t last = order;
    const int64_t ties =
        lane_count(block_length(bank.a.rows, t), [=](int64_t i) { return ordered(score[i]) == last; });
    if (leader()) bank.certain.mass[t] = static_cast<double>(ties);
  }
};

struct LocateTie {
  Bank bank;
  uint32_t order;
  double rank;
  double* row;

  CURBENCH_HD void operator()(int64_t) const {
    const float* score = bank.a.score;
    const uint32_t last = order;
    const int64_t at = locate(bank.certain, bank.a.rows, rank + 0.5,
                              [=](int64_t i) { return ordered(score[i]) == last ? 1.0 : 0.0; });
    if (leader()) *row = static_cast<double>(at);
  }
};

// Above the last order, or of it and not after the last row.
struct KeepBlock {
  Bank bank;
  uint32_t order;
  int64_t row;

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = bank.a.score;
    float* kept = bank.a.kept;
    const uint32_t last = order;
    const int64_t end = row, first = t * kBlock;
    lane_for(block_length(bank.a.rows, t), [=](int64_t i) {
      const uint32_t own = ordered(score[first + i]);
      const bool in = own > last || (own == last && first + i <= end);
      kept[first + i] = in ? score[first + i] : -HUGE_VALF;
    });
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
      const float* score = bank.score + t * kBlock;
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
    const auto q = [=](int64_t i) { return bank.with_floor(bank.probability(bank.score[i], normaliser), 1); };
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
    a.probability[k] = bank.probability(bank.score[row], normaliser);
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

// Slots hold rows until now.
struct NameSlot {
  ScoreBank a;

  CURBENCH_HD void operator()(int64_t k) const {
    if (leader()) a.problem[k] = a.candidate[a.problem[k]];
  }
};

struct ClearWords {
  uint64_t* word;

  CURBENCH_HD void operator()(int64_t i) const {
    if (leader()) word[i] = 0;
  }
};

struct SumDigits {
  Bank bank;
  Digit digit;
  double top;
  double scale;
  uint64_t* mass;  // [kDigitSize]

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = bank.a.score + t * kBlock;
    const SumDigits& d = *this;
    lane_for(block_length(bank.a.rows, t), [=](int64_t i) {
      const uint32_t order = ordered(score[i]);
      if (d.digit.holds(order)) add_to(d.mass + d.digit.of(order), fixed_mass(score[i], d.top, d.scale));
    });
  }
};

// Survivors of a race that fit between two visits of the host.
inline int64_t race_capacity(int64_t rows, int64_t count) { return 2 * race_keep(rows, count) + 16 * kBlock; }

inline int64_t bank_workspace(int64_t rows, int64_t count) {
  const int64_t blocks = ceil_div(rows, kBlock);
  const int64_t arrivals = race_capacity(rows, count) * (sizeof(Arrival) / sizeof(double));
  return 1 + 8 * blocks + 3 * ceil_div(blocks, kBlock) + kDigitSize + arrivals;
}

inline Bank bank_of(const ScoreBank& args) {
  const int64_t blocks = ceil_div(args.rows, kBlock), spans = ceil_div(blocks, kBlock);
  double* free = args.workspace;
  const auto take = [&](int64_t n) {
    double* start = free;
    free += n;
    return start;
  };
  uint64_t* digits = reinterpret_cast<uint64_t*>(take(kDigitSize));
  Arrival* arrivals = reinterpret_cast<Arrival*>(take(race_capacity(args.rows, args.count) * 3));
  const auto prefix = [&] { return Prefix{take(blocks), take(blocks), take(spans), blocks}; };
  double* top = take(1);
  double* block_top = take(blocks);
  double* block_sum = take(blocks);
  return {args, args.score, block_top, block_sum, top, prefix(), prefix(), prefix(), digits, arrivals};
}

// The passes over the rows as ops: on CUDA, and wherever no loop was written by hand.
template <class Launch>
struct PlainBack {
  Launch launch;

  void score(const Bank& bank, RaceLists* lists) const {
    launch(bank.a.rows, ScoreRow{bank.a});
    sum(bank, lists);
  }

  void sum(const Bank& bank, RaceLists* lists) const {
    launch(bank.weight.blocks, SumBlock{bank});
    if (lists != nullptr && bank.a.floor < 1.0) run(bank, kRace, lists->softmax);
    if (lists != nullptr && bank.a.floor > 0.0) run(bank, kFloorRace, lists->uniform);
  }

  // Few survive a limit that the blocks before have set: each step may cover twice as many as the last.
  void run(const Bank& bank, uint32_t stream, Earliest& earliest) const {
    const ScoreBank& a = bank.a;
    const uint64_t capacity = static_cast<uint64_t>(race_capacity(a.rows, a.count));
    const int64_t blocks = bank.weight.blocks;
    std::vector<Arrival> survivor(capacity);
    int64_t step = 16;
    for (int64_t first = 0; first < blocks;) {
      step = std::min(step, blocks - first);
      launch(1, ClearWords{bank.digits});
      launch(step, EnterBlock{{a.seed, a.step, stream}, bank.score, a.candidate, a.rows, first, earliest.limit(),
                              bank.arrivals, capacity, bank.digits});
      uint64_t found;
      launch.read(&found, bank.digits, 1);
      if (found > capacity) {  // scores that rise from block to block: one block always fits
        step = std::max<int64_t>(1, step / 16);
        continue;
      }
      launch.read(survivor.data(), bank.arrivals, found);
      for (uint64_t s = 0; s < found; ++s) {
        earliest.add(survivor[s]);
        earliest.prune();
      }
      first += step;
      step *= 2;
    }
  }

  void sum_digits(const Bank& bank, const Digit& digit, double top, double scale, uint64_t* mass) const {
    launch(kDigitSize, ClearWords{bank.digits});
    launch(bank.weight.blocks, SumDigits{bank, digit, top, scale, bank.digits});
    launch.read(mass, bank.digits, kDigitSize);
  }
};

// log sum exp(score), from the sums of the blocks.
template <class Launch>
double log_normaliser_of(const Launch& launch, const Bank& bank) {
  const int64_t blocks = bank.weight.blocks;
  launch(1, FoldMax{bank.block_top, blocks, bank.top});
  launch(blocks, WeightOfBlock{bank});
  double top;
  launch.read(&top, bank.top, 1);
  return top + log(scan(launch, bank.weight));
}

// Fills kept.
template <class Back>
void keep_nucleus(const Back& back, const Bank& bank) {
  const auto& launch = back.launch;
  double top, normaliser;
  launch.read(&top, bank.top, 1);
  launch.read(&normaliser, bank.weight.top + bank.weight.spans() - 1, 1);
  const double scale = 0x1p62 / normaliser;
  // Less the rounding of the masses, so that half of 3000 equal ones is 1500 of them.
  const uint64_t exact = static_cast<uint64_t>(bank.a.nucleus * 0x1p62), slack = bank.a.rows + (1 << 12);
  const uint64_t wanted = exact > slack ? exact - slack : 1;

  uint64_t above = 0, mass[kDigitSize];
  uint32_t order = 0;
  for (Digit digit : kDigits) {
    digit.prefix = order;
    back.sum_digits(bank, digit, top, scale, mass);
    uint32_t value = (1u << digit.bits) - 1;
    while (value > 0 && above + mass[value] < wanted) above += mass[value--];
    order = order << digit.bits | value;
    mass[0] = mass[value];
  }

  // Of the candidates with the last order, all equally heavy, the first ones.
  int64_t row = bank.a.rows;
  float score;
  const uint32_t bits = order >> 31 ? order & 0x7FFFFFFFu : ~order;
  memcpy(&score, &bits, sizeof score);
  const uint64_t each = fixed_mass(score, top, scale), left = wanted > above ? wanted - above : 0;
  if (each > 0 && left < mass[0]) {
    const uint64_t ties = std::max<uint64_t>(1, (left + each - 1) / each);
    launch(bank.certain.blocks, CountTies{bank, order});
    scan(launch, bank.certain);
    launch(1, LocateTie{bank, order, static_cast<double>(ties - 1), bank.rest.top});
    double at;
    launch.read(&at, bank.rest.top, 1);
    row = static_cast<int64_t>(at);
  }
  launch(bank.weight.blocks, KeepBlock{bank, order, row});
}

template <class Launch>
BankTotals draw_race(const Launch& launch, const Bank& bank, RaceLists& lists, BankTotals totals) {
  const ScoreBank& a = bank.a;
  const RaceResult result = race_result(lists, totals.log_normaliser, a.floor, a.rows, a.count);
  totals.log_time = result.log_time;
  const int64_t drawn = static_cast<int64_t>(result.winner.size());
  if (drawn < a.count) {
    totals.reachable = drawn;
    return totals;
  }
  double top, normaliser;
  launch.read(&top, bank.top, 1);
  launch.read(&normaliser, bank.weight.top + bank.weight.spans() - 1, 1);
  std::vector<int64_t> row(a.count);
  std::vector<double> propensity(a.count), probability(a.count);
  for (int64_t k = 0; k < a.count; ++k) {
    const double score = result.winner[k].score;
    row[k] = result.winner[k].row;
    probability[k] = exponential(score - top) / normaliser;
    const double log_q = a.floor > 0.0 ? log(bank.with_floor(probability[k], 1)) : score - totals.log_normaliser;
    propensity[k] = race_inclusion(log_q, result.log_time);
  }
  launch.write(a.problem, row.data(), a.count);
  launch.write(a.propensity, propensity.data(), a.count);
  launch.write(a.probability, probability.data(), a.count);
  if (a.candidate != nullptr) launch(a.count, NameSlot{a});
  return totals;
}

template <class Launch>
BankTotals draw_prefix(const Launch& launch, const Bank& bank, BankTotals totals) {
  // Raise the set of certain candidates until c = (count - certain) / rest stops growing. This is Newton's method on
  // sum min(1, c q) = count, which is concave in c, so it never overshoots; it ends after a few rounds.
  const ScoreBank& a = bank.a;
  double threshold = HUGE_VAL, rest, certain;
  for (;;) {
    launch(bank.weight.blocks, SplitBlock{bank, threshold});
    rest = scan(launch, bank.rest);
    certain = scan(launch, bank.certain);
    const double left = static_cast<double>(a.count) - certain;
    if (a.design == Design::kIid || left <= 0.0) break;
    if (rest <= 0.0) {
      totals.reachable = static_cast<int64_t>(certain);
      return totals;
    }
    const double next = kCertain * rest / left;
    if (next >= threshold) break;
    threshold = next;
  }
  launch(a.count, DrawSlot{bank, threshold, rest, static_cast<int64_t>(certain)});
  return totals;
}

// Back is where the passes over the rows run, as PlainBack: it has
//   launch                                        for everything else
//   score(bank, lists)                            scores, with the tops and sums of their blocks
//   sum(bank, lists)                              those of bank.score; both add to the lists of the race unless null
//   sum_digits(bank, digit, top, scale, mass)     sums of fixed_mass by digit, on the host
struct CheckGiven {
  ScoreBank a;

  CURBENCH_HD void operator()(int64_t t) const {
    const float* score = a.score + t * kBlock;
    int64_t* fault = a.fault + 1;
    lane_for(block_length(a.rows, t), [=](int64_t i) {
      if (!(score[i] < HUGE_VALF)) report(fault, t * kBlock + i);
    });
  }
};

template <class Back>
BankTotals score_bank(const Back& back, const ScoreBank& args) {
  const auto& launch = back.launch;
  Bank bank = bank_of(args);
  const bool race = args.design == Design::kRace, nucleus = args.nucleus < 1.0;
  RaceLists lists(args.rows, race ? args.count : 0);
  const bool given = args.feature == nullptr;
  if (given)
    back.sum(bank, race && !nucleus ? &lists : nullptr);
  else
    back.score(bank, race && !nucleus ? &lists : nullptr);
  int64_t fault[2];
  launch.read(fault, args.fault, 2);
  if (fault[0] != INT64_MAX || fault[1] != INT64_MAX) return {};

  BankTotals totals = {log_normaliser_of(launch, bank), 1.0, HUGE_VAL, -1};
  if (given && !finite(totals.log_normaliser)) {
    launch(bank.weight.blocks, CheckGiven{args});
    return totals;
  }
  if (args.count == 0) return totals;
  if (nucleus) {
    keep_nucleus(back, bank);
    bank.score = args.kept;
    back.sum(bank, race ? &lists : nullptr);
    const double whole = totals.log_normaliser;
    totals.log_normaliser = log_normaliser_of(launch, bank);
    totals.mass = exp(totals.log_normaliser - whole);
  }
  return race ? draw_race(launch, bank, lists, totals) : draw_prefix(launch, bank, totals);
}

}  // namespace curbench
