// Which slots belong to a group.
#pragma once

#include "kernels.h"
#include "lanes.h"

namespace curbench {

struct Span {
  int64_t first;
  int64_t n;  // 0 when the bounds are wrong: not increasing, not from 0, not to R
};

CURBENCH_HD Span span_of(const Groups& groups, int64_t b) {
  if (groups.offset == nullptr) return {b * groups.size, groups.size};
  const int64_t low = groups.offset[b], high = groups.offset[b + 1];
  const bool starts = b > 0 ? low > 0 : low == 0;
  const bool ends = b + 1 < groups.count ? high < groups.slots : high == groups.slots;
  if (starts && ends && low < high) return {low, high - low};
  return {0, 0};
}

// The slots of a group, one per place.
struct Slots {
  const int64_t* order;  // null: places are slots
  int64_t first;

  CURBENCH_HD int64_t operator[](int64_t i) const { return order == nullptr ? first + i : order[first + i]; }
};

// True if every slot of the group exists; nothing may be read through the order otherwise.
CURBENCH_HD bool all_exist(const Groups& groups, const Span& span) {
  if (groups.order == nullptr) return true;
  const int64_t* slot = groups.order + span.first;
  const int64_t slots = groups.slots;
  return lane_count(span.n, [=](int64_t i) { return slot[i] < 0 || slot[i] >= slots; }) == 0;
}

}  // namespace curbench
