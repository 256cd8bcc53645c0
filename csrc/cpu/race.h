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

// The same from a given top, without the sum.
void exponential_from(const float* score, int64_t n, double top, double* weight);

// Lets rows run in the races of a draw from (1 - floor) softmax + floor / M. Rows have the id first_id + row, or
// id[row]; a score of -inf never arrives in the race of the softmax.
struct Race {
  uint64_t seed;
  uint32_t step;
  double floor;
  int64_t first_id;
  const int64_t* id;

  // n <= kBlock rows from `row` on, with weight = exp(score - top) <= 1. Without id, first_id + row must divide by
  // kTile.
  template <class T>
  void block(RaceLists& lists, const T* score, const double* weight, double top, int64_t row, int64_t n) const;
};

}  // namespace curbench::cpu
