// The race of race.h on the CPU: blocks of scores in, survivors out.
#pragma once

#include <cstdint>

#include "../race.h"

namespace curbench::cpu {

struct BlockSum {
  double top;  // largest score
  double sum;  // of exp(score - top), in the order of lane_sum
};

// Fills weight[i] = exp(score[i] - top).
BlockSum exponential_block(const float* score, int64_t n, double* weight);
BlockSum exponential_block(const double* score, int64_t n, double* weight);

// The race of some rows; several are merged by adding their lists. Rows have the id first_id + row, or id[row].
class Race {
 public:
  // count of rows are drawn from (1 - floor) softmax + floor / rows.
  Race(uint64_t seed, uint32_t step, int64_t rows, int64_t count, double floor)
      : softmax(race_keep(rows, count)),
        uniform(race_keep(rows, count)),
        softmax_{seed, step, kRace},
        uniform_{seed, step, kFloorRace},
        floor_(floor) {}

  // n <= kBlock rows from `row` on, with weight = exp(score - top) <= 1. Without id, row + first_id must divide by
  // kTile.
  template <class T>
  void block(const T* score, const double* weight, double top, int64_t row, int64_t n, int64_t first_id,
             const int64_t* id) {
    if (floor_ < 1.0) run(softmax, softmax_, score, weight, top, row, n, first_id, id);
    if (floor_ > 0.0) run<T>(uniform, uniform_, nullptr, nullptr, 0.0, row, n, first_id, id);
  }

  Earliest softmax;
  Earliest uniform;

 private:
  template <class T>
  static void run(Earliest& earliest, const RaceClock& clock, const T* score, const double* weight, double top,
                  int64_t row, int64_t n, int64_t first_id, const int64_t* id);

  RaceClock softmax_;
  RaceClock uniform_;
  double floor_;
};

}  // namespace curbench::cpu
