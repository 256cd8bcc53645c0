#include "../kernels.h"
#include "launch.h"

namespace curbench::cpu {

// Four sums at once, so that the adds never wait for each other and only memory is measured.
CURBENCH_CLONES static uint64_t sum_words(const uint64_t* word, int64_t count) {
  uint64_t sum[16] = {};
  for (int64_t i = 0; i + 16 <= count; i += 16)
    for (int l = 0; l < 16; ++l) sum[l] += word[i + l];
  for (int l = 1; l < 16; ++l) sum[0] += sum[l];
  return sum[0];
}

uint64_t read_words(const uint64_t* word, int64_t count) { return sum_words(word, count); }

}  // namespace curbench::cpu
