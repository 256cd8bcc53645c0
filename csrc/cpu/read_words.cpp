#include "../kernels.h"
#include "launch.h"

namespace curbench::cpu {

// Sums runs of words, four registers at once, so that the adds never wait for each other and only memory is measured.
struct SumRun {
  static constexpr int64_t kWords = 1 << 16;
  const uint64_t* word;
  int64_t count;
  uint64_t* total;

  CURBENCH_HD void operator()(int64_t r) const {
    const uint64_t* first = word + r * kWords;
    const int64_t n = count - r * kWords < kWords ? count - r * kWords : kWords;
    uint64_t sum[32] = {};
    for (int64_t i = 0; i + 32 <= n; i += 32)
      for (int l = 0; l < 32; ++l) sum[l] += first[i + l];
    for (int l = 0; l < 32; ++l) *total += sum[l];
  }
};

uint64_t read_words(const uint64_t* word, int64_t count) {
  uint64_t total = 0;
  Launch{1}((count + SumRun::kWords - 1) / SumRun::kWords, SumRun{word, count, &total});
  return total;
}

}  // namespace curbench::cpu
