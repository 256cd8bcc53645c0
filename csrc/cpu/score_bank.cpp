#include "../score_bank.h"

#include "launch.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace curbench {

int64_t score_bank_workspace(int64_t rows) { return bank_workspace(rows); }

namespace cpu {

#ifdef __x86_64__
// ScoreRow for whole rounds of lanes, with its bits. This pass reads the bank, and what the compiler makes of ScoreRow
// does not keep up with memory: here values widen as they are loaded, lanes add up in vectors, rows are fetched ahead.
struct ScoreWideRow {
  ScoreRow op;
};

// Launch finds this overload.
__attribute__((target("avx2"))) static void run_items(const ScoreWideRow& rows, int64_t first, int64_t last) {
  constexpr int kVectors = kLanes / 4;  // vector j holds lanes 4 j .. 4 j + 3
  constexpr int kAhead = 384;           // in floats; 512 to 6144 bytes were tried
  const double* weight = rows.op.a.weight;
  for (int64_t r = first; r < last; ++r) {
    const float* feature = rows.op.row(r);
    if (feature == nullptr) continue;
    __m256d acc[kVectors];
    for (__m256d& a : acc) a = _mm256_setzero_pd();
    for (int64_t i = 0; i < rows.op.a.features; i += kLanes) {
      _mm_prefetch(reinterpret_cast<const char*>(feature + i + kAhead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(feature + i + kAhead + 16), _MM_HINT_T0);
      for (int j = 0; j < kVectors; ++j) {
        const __m256d wide = _mm256_cvtps_pd(_mm_loadu_ps(feature + i + 4 * j));
        acc[j] = _mm256_add_pd(acc[j], _mm256_mul_pd(wide, _mm256_loadu_pd(weight + i + 4 * j)));
      }
    }
    for (int half = kVectors / 2; half > 0; half /= 2)
      for (int j = 0; j < half; ++j) acc[j] = _mm256_add_pd(acc[j], acc[j + half]);
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(acc[0]), _mm256_extractf128_pd(acc[0], 1));
    rows.op.finish(r, _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair))));
  }
}
#endif

BankTotals score_bank(const ScoreBank& args, int threads) {
#ifdef __x86_64__
  if (args.features % kLanes == 0 && __builtin_cpu_supports("avx2"))
    return curbench::score_bank<ScoreWideRow>(Launch{threads}, args);
#endif
  return curbench::score_bank(Launch{threads}, args);
}

}  // namespace cpu
}  // namespace curbench
