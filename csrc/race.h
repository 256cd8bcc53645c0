// Draws without replacement by an exponential race: candidate i arrives at time e_i / w_i, e_i ~ Exp(1), and the
// earliest `count` win. Efraimidis & Spirakis, "Weighted random sampling with a reservoir", IPL 2006; the same draw as
// Gumbel-top-k, and as `count` successive draws that each leave out those before (Plackett-Luce).
//
// Keys. With w_i = exp(s_i) the key is log e_i - s_i. It needs no normaliser, so one pass over the scores is enough,
// and parts of a bank race apart: any set that surely holds the winners gives the same winners.
//
// Numbers. e_i = -log(1 - v_i), v_i = (bits + 1/2) / 2^64. The high 32 bits come from the stream of the race, the low
// ones from the next stream and only for candidates that survive the filter. Row id = 64 t + 16 r + j takes word r of
// counter 16 t + j, so sixteen counters side by side fill a tile of 64 rows without a shuffle.
//
// Filter. e_i >= v_i >= high / 2^32, so candidate i cannot arrive before `limit` if high / 2^32 > w_i exp(limit): one
// product and one comparison instead of a logarithm.
//
// Floor. For q = (1 - floor) p + floor / M two races run, one at rates exp(s_i), one at rates 1. Slowed down by
// Z / (1 - floor) and by M / floor they run at rates (1 - floor) p_i and floor / M, and the first of two exponentials
// runs at the sum of the rates: the earliest of both lists together race at rates q, though no pass knew Z.
//
// Given the time T of the arrival after the last winner, candidate i is among the winners with probability
// pi_i = 1 - exp(-q_i T), and sum f_i / pi_i over the winners is unbiased (Duffield, Lund & Thorup, "Priority sampling
// for estimation of arbitrary subset sums", JACM 2007). Without T inclusion probabilities have no closed form.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "exponential.h"
#include "lanes.h"
#include "philox.h"

namespace curbench {

constexpr int64_t kTile = 64;  // rows that share sixteen counters

struct RaceClock {
  uint64_t seed;
  uint32_t step;
  uint32_t stream;  // kRace or kFloorRace
};

CURBENCH_HD Words race_words(const RaceClock& clock, uint32_t stream, uint64_t counter) {
  const Words at = {{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), clock.step, stream}};
  return philox4x32(at, static_cast<uint32_t>(clock.seed), static_cast<uint32_t>(clock.seed >> 32));
}

CURBENCH_HD uint64_t race_counter(int64_t id) { return static_cast<uint64_t>(id / kTile * 16 + id % 16); }

CURBENCH_HD uint32_t race_word(const RaceClock& clock, uint32_t stream, int64_t id) {
  return race_words(clock, stream, race_counter(id)).w[id / 16 % 4];
}

CURBENCH_HD uint32_t race_high(const RaceClock& clock, int64_t id) { return race_word(clock, clock.stream, id); }

// log e of the row whose high word is known.
CURBENCH_HD double log_exponential(const RaceClock& clock, int64_t id, uint32_t high) {
  const uint32_t low = race_word(clock, clock.stream + 1, id);
  const uint64_t bits = uint64_t{high} << 32 | low;
  if (bits >> 63) return natural_log(-natural_log((static_cast<double>(~bits) + 0.5) * 0x1p-64));  // 1 - v, exactly
  const double v = (static_cast<double>(bits) + 0.5) * 0x1p-64;
  const double left = 1.0 - v;
  // log(left) / (left - 1) varies slowly, so that the rounding of left cancels.
  return natural_log(left == 1.0 ? v : v * (natural_log(left) / (left - 1.0)));
}

struct Arrival {
  double key;  // logarithm of the time, up to the speed of the race
  int64_t row;
};

inline bool operator<(const Arrival& a, const Arrival& b) { return a.key < b.key || (a.key == b.key && a.row < b.row); }

// The `keep` earliest of the arrivals it was given, and perhaps some that are later.
class Earliest {
 public:
  explicit Earliest(int64_t keep) : keep_(static_cast<size_t>(keep)) { arrival_.reserve(2 * keep_ + kBlock); }

  // No arrival after it can be among the earliest.
  double limit() const { return limit_; }

  void add(double key, int64_t row) {
    if (key <= limit_) arrival_.push_back({key, row});
  }

  // To be called after at most kBlock additions.
  void prune() {
    if (arrival_.size() >= 2 * keep_) cut();
  }

  void add(const Earliest& other) {
    for (const Arrival& a : other.arrival_) {
      add(a.key, a.row);
      prune();
    }
  }

  const std::vector<Arrival>& sorted() {
    cut();
    std::sort(arrival_.begin(), arrival_.end());
    return arrival_;
  }

 private:
  void cut() {
    if (arrival_.size() < keep_) return;
    std::nth_element(arrival_.begin(), arrival_.begin() + (keep_ - 1), arrival_.end());
    arrival_.resize(keep_);
    limit_ = arrival_.back().key;
  }

  size_t keep_;
  double limit_ = HUGE_VAL;
  std::vector<Arrival> arrival_;
};

// Arrivals to keep of each race: the winners, and the one after them where there is one.
inline int64_t race_keep(int64_t rows, int64_t count) { return count < rows ? count + 1 : rows; }

// Fills winner[count] in the order of arrival, and returns log T; inf when all rows win. Both lists hold race_keep
// arrivals of their race over the same rows; that of a race without speed (floor 0 or 1) is not read.
inline double race_winners(Earliest& softmax, Earliest& uniform, double log_normaliser, double floor, int64_t rows,
                           int64_t count, int64_t* winner) {
  std::vector<Arrival> all;
  if (floor < 1.0)
    for (const Arrival& a : softmax.sorted()) all.push_back({a.key + log_normaliser - log1p(-floor), a.row});
  if (floor > 0.0)
    for (const Arrival& a : uniform.sorted()) all.push_back({a.key + log(static_cast<double>(rows) / floor), a.row});
  std::sort(all.begin(), all.end());
  if (0.0 < floor && floor < 1.0) {  // a row in both lists arrives when it first does
    std::vector<int64_t> row;
    for (const Arrival& a : all) row.push_back(a.row);
    std::sort(row.begin(), row.end());
    std::vector<bool> seen(row.size());
    const auto again = [&](const Arrival& a) {
      const auto at = std::lower_bound(row.begin(), row.end(), a.row) - row.begin();
      const bool before = seen[at];
      seen[at] = true;
      return before;
    };
    std::vector<Arrival> first;
    for (const Arrival& a : all)
      if (!again(a)) first.push_back(a);
    all = first;
  }
  for (int64_t k = 0; k < count; ++k) winner[k] = all[k].row;
  return count < rows ? all[count].key : HUGE_VAL;
}

// pi = 1 - exp(-q T), from logarithms so that neither overflows.
inline double race_inclusion(double log_q, double log_time) { return -expm1(-exp(log_q + log_time)); }

}  // namespace curbench
