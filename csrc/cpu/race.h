// The race of race.h on the CPU: blocks of scores in, survivors out.
#pragma once

#include <cstdint>

#include "../race.h"

namespace curbench::cpu {

// weight[i] = exp(score[i] - top) for n rows, added to the 32 sums in the order of lane_sum; n is a multiple of 32 in
// all but the last part of a block. Without sums they are not added.
void exponentials(const float* score, int64_t n, double top, double* weight, double* sum);

double largest(const float* score, int64_t n);

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
  void enter(RaceLists& lists, const float* score, const double* weight, double top, int64_t row, int64_t n) const;
};

}  // namespace curbench::cpu
