// Philox4x32-10, the counter-based generator behind every draw; the same numbers as curbench/philox.py.
//
// key = (seed lo, hi), counter = (index lo, index hi, step, stream). Salmon, Moraes, Dror & Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "check.h"

namespace curbench {

// Streams name the purpose of a draw; curbench/philox.py holds the whole list.
constexpr uint32_t kDraw = 0;
constexpr uint32_t kSystematic = 1;
constexpr uint32_t kRace = 24;       // and kRace + 1; see race.h
constexpr uint32_t kFloorRace = 26;  // and kFloorRace + 1
constexpr uint32_t kArrival = 30;

struct Words {
  uint32_t w[4];
};

CURBENCH_HD Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
  uint32_t* c = counter.w;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t c1 = c[1], c3 = c[3];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c[3] = static_cast<uint32_t>(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// One double in [0, 1) with 53 random bits, from words 0 and 1.
CURBENCH_HD double uniform(uint64_t seed, uint32_t stream, uint32_t step, uint64_t index) {
  const Words counter = {
      {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step, stream}};
  const Words r = philox4x32(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return ((r.w[0] >> 5) * 67108864.0 + (r.w[1] >> 6)) * (1.0 / 9007199254740992.0);
}

}  // namespace curbench
