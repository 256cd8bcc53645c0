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
  double score;
};

inline bool operator<(const Arrival& a, const Arrival& b) { return a.key < b.key || (a.key == b.key && a.row < b.row); }

// The `keep` earliest of the arrivals it was given, and perhaps some that are later.
class Earliest {
 public:
  explicit Earliest(int64_t keep) : keep_(static_cast<size_t>(keep)) { arrival_.reserve(2 * keep_ + kBlock); }

  // No arrival after it can be among the earliest.
  double limit() const { return limit_; }

  void add(const Arrival& a) {
    if (a.key <= limit_) arrival_.push_back(a);
  }

  // To be called after at most kBlock additions.
  void prune() {
    if (arrival_.size() >= 2 * keep_) cut();
  }

  void add(const Earliest& other) {
    for (const Arrival& a : other.arrival_) {
      add(a);
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

// Runs a block of rows against a limit, and appends the survivors to a list in any order; what does not fit is counted.
struct EnterBlock {
  RaceClock clock;
  const float* score;
  const int64_t* id;  // [rows] or null, where a row is its own id
  int64_t rows;
  int64_t first;  // block
  double limit;
  Arrival* out;  // [capacity]
  uint64_t capacity;
  uint64_t* found;

  CURBENCH_HD void operator()(int64_t item) const {
    const EnterBlock& e = *this;
    const int64_t start = (first + item) * kBlock;
    const int64_t n = rows - start < kBlock ? rows - start : kBlock;
    if (id != nullptr) {
      lane_for(n, [=](int64_t i) { e.enter(start + i, e.id[start + i], race_high(e.clock, e.id[start + i])); });
    } else {  // one counter for four rows
      lane_for(ceil_div(n, kTile) * 16, [=](int64_t c) {
        const int64_t row = start + c / 16 * kTile + c % 16;
        const Words words = race_words(e.clock, e.clock.stream, race_counter(row));
        for (int r = 0; r < 4; ++r)
          if (row + 16 * r < start + n) e.enter(row + 16 * r, row + 16 * r, words.w[r]);
      });
    }
  }

  CURBENCH_HD void enter(int64_t row, int64_t own, uint32_t high) const {
    const bool softmax = clock.stream == kRace;
    const double s = static_cast<double>(score[row]);
    if (softmax && s == -HUGE_VAL) return;
    const double bound = exponential(softmax ? limit + s : limit) * (0x1p32 * (1.0 + 0x1p-40));
    if (static_cast<double>(high) > bound) return;
    const double log_e = log_exponential(clock, own, high);
    const double key = softmax ? log_e - s : log_e;
    if (key > limit) return;
    const uint64_t at = add_to(found, 1);
    if (at < capacity) out[at] = {key, row, s};
  }
};

// Arrivals to keep of each race: as many as win, and the one after them where there is one.
inline int64_t race_keep(int64_t rows, int64_t count) { return count < rows ? count + 1 : rows; }

// The lists of both races; that of a race without speed (floor 0 or 1) stays empty.
struct RaceLists {
  Earliest softmax;
  Earliest uniform;

  RaceLists(int64_t rows, int64_t count) : softmax(race_keep(rows, count)), uniform(race_keep(rows, count)) {}

  void add(const RaceLists& other) {
    softmax.add(other.softmax);
    uniform.add(other.uniform);
  }
};

struct RaceResult {
  std::vector<Arrival> winner;  // in the order of arrival; fewer than asked for if no more can ever arrive
  double log_time;              // log T; inf when no candidate is left to arrive
};

inline RaceResult race_result(RaceLists& lists, double log_normaliser, double floor, int64_t rows, int64_t count) {
  std::vector<Arrival> all;
  const auto take = [&](Earliest& list, double slowdown) {
    for (const Arrival& a : list.sorted()) all.push_back({a.key + slowdown, a.row, a.score});
  };
  if (floor < 1.0) take(lists.softmax, log_normaliser - log1p(-floor));
  if (floor > 0.0) take(lists.uniform, log(static_cast<double>(rows) / floor));
  if (0.0 < floor && floor < 1.0) {  // a row in both lists arrives when it first does
    const auto earlier_of_row = [](const Arrival& a, const Arrival& b) {
      return a.row < b.row || (a.row == b.row && a.key < b.key);
    };
    std::sort(all.begin(), all.end(), earlier_of_row);
    const auto same_row = [](const Arrival& a, const Arrival& b) { return a.row == b.row; };
    all.erase(std::unique(all.begin(), all.end(), same_row), all.end());
  }
  std::sort(all.begin(), all.end());
  const bool more = static_cast<int64_t>(all.size()) > count;
  const double log_time = more ? all[count].key : HUGE_VAL;
  if (more) all.resize(count);
  return {all, log_time};
}

// pi = 1 - exp(-q T), from logarithms so that neither overflows.
inline double race_inclusion(double log_q, double log_time) { return -expm1(-exp(log_q + log_time)); }

}  // namespace curbench
