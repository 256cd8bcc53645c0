// What one thread can do at most: read memory, and multiply and add in registers. The benchmarks relate the ops to it.
#include "../kernels.h"
#include "isa.h"

#ifdef CURBENCH_X86
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms of gcc 12 about its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace curbench::cpu {
namespace {

constexpr int kChains = 12;  // sums that do not wait for each other: two units, four to five cycles each

uint64_t read_portable(const uint64_t* word, int64_t count) {
  uint64_t sum[32] = {}, total = 0;
  for (int64_t i = 0; i + 32 <= count; i += 32)
    for (int l = 0; l < 32; ++l) sum[l] += word[i + l];
  for (int l = 0; l < 32; ++l) total += sum[l];
  return total;
}

#ifdef CURBENCH_X86
__attribute__((target(CURBENCH_AVX2))) uint64_t read_avx2(const uint64_t* word, int64_t count) {
  __m256i sum[8] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32)
    for (int l = 0; l < 8; ++l)
      sum[l] = _mm256_add_epi64(sum[l], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(word + i + 4 * l)));
  uint64_t part[4], total = 0;
  for (int l = 1; l < 8; ++l) sum[0] = _mm256_add_epi64(sum[0], sum[l]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(part), sum[0]);
  for (uint64_t p : part) total += p;
  return total;
}

__attribute__((target(CURBENCH_AVX512))) uint64_t read_avx512(const uint64_t* word, int64_t count) {
  __m512i sum[4] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32)
    for (int l = 0; l < 4; ++l) sum[l] = _mm512_add_epi64(sum[l], _mm512_loadu_si512(word + i + 8 * l));
  uint64_t part[8], total = 0;
  for (int l = 1; l < 4; ++l) sum[0] = _mm512_add_epi64(sum[0], sum[l]);
  _mm512_storeu_si512(part, sum[0]);
  for (uint64_t p : part) total += p;
  return total;
}

// Written in assembly: a compiler folds rounds of intrinsics, and reports a processor that does not exist.
__attribute__((target(CURBENCH_AVX2))) int64_t multiply_avx2(int64_t rounds) {
  const __m256 x = _mm256_set1_ps(1e-4f);
  __m256 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
  for (int64_t r = 0; r < rounds; ++r)
    asm volatile(
        "vfmadd231ps %12, %12, %0\n\t" "vfmadd231ps %12, %12, %1\n\t" "vfmadd231ps %12, %12, %2\n\t"
        "vfmadd231ps %12, %12, %3\n\t" "vfmadd231ps %12, %12, %4\n\t" "vfmadd231ps %12, %12, %5\n\t"
        "vfmadd231ps %12, %12, %6\n\t" "vfmadd231ps %12, %12, %7\n\t" "vfmadd231ps %12, %12, %8\n\t"
        "vfmadd231ps %12, %12, %9\n\t" "vfmadd231ps %12, %12, %10\n\t" "vfmadd231ps %12, %12, %11\n\t"
        : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f),
          "+x"(g), "+x"(h), "+x"(i), "+x"(j), "+x"(k), "+x"(l)
        : "x"(x));
  return rounds * kChains * 8 * 2;
}

__attribute__((target(CURBENCH_AVX512))) int64_t multiply_avx512(int64_t rounds) {
  const __m512 x = _mm512_set1_ps(1e-4f);
  __m512 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
  for (int64_t r = 0; r < rounds; ++r)
    asm volatile(
        "vfmadd231ps %12, %12, %0\n\t" "vfmadd231ps %12, %12, %1\n\t" "vfmadd231ps %12, %12, %2\n\t"
        "vfmadd231ps %12, %12, %3\n\t" "vfmadd231ps %12, %12, %4\n\t" "vfmadd231ps %12, %12, %5\n\t"
        "vfmadd231ps %12, %12, %6\n\t" "vfmadd231ps %12, %12, %7\n\t" "vfmadd231ps %12, %12, %8\n\t"
        "vfmadd231ps %12, %12, %9\n\t" "vfmadd231ps %12, %12, %10\n\t" "vfmadd231ps %12, %12, %11\n\t"
        : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f),
          "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l)
        : "v"(x));
  return rounds * kChains * 16 * 2;
}

__attribute__((target(CURBENCH_AVX512 ",avx512bf16"))) int64_t multiply_bfloat16(int64_t rounds) {
  const __m512 x = _mm512_set1_ps(1.0f);  // pairs of a bfloat16 1 and 0
  __m512 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
  for (int64_t r = 0; r < rounds; ++r)
    asm volatile(
        "vdpbf16ps %12, %12, %0\n\t" "vdpbf16ps %12, %12, %1\n\t" "vdpbf16ps %12, %12, %2\n\t"
        "vdpbf16ps %12, %12, %3\n\t" "vdpbf16ps %12, %12, %4\n\t" "vdpbf16ps %12, %12, %5\n\t"
        "vdpbf16ps %12, %12, %6\n\t" "vdpbf16ps %12, %12, %7\n\t" "vdpbf16ps %12, %12, %8\n\t"
        "vdpbf16ps %12, %12, %9\n\t" "vdpbf16ps %12, %12, %10\n\t" "vdpbf16ps %12, %12, %11\n\t"
        : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f),
          "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l)
        : "v"(x));
  return rounds * kChains * 32 * 2;
}
#endif

}  // namespace

uint64_t read_words(const uint64_t* word, int64_t count) {
#ifdef CURBENCH_X86
  if (isa() == Isa::kAvx512) return read_avx512(word, count);
  if (isa() == Isa::kAvx2) return read_avx2(word, count);
#endif
  return read_portable(word, count);
}

int64_t multiply_add(bool bfloat16, int64_t rounds) {
#ifdef CURBENCH_X86
  if (isa() == Isa::kAvx512)
    return bfloat16 && __builtin_cpu_supports("avx512bf16") ? multiply_bfloat16(rounds) : multiply_avx512(rounds);
  if (isa() == Isa::kAvx2) return multiply_avx2(rounds);
#endif
  (void)bfloat16;
  volatile float x = 1e-4f;
  float sum[kChains] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    const float now = x;
    for (float& s : sum) s += now * now;
  }
  for (float s : sum) x = s;
  return rounds * kChains * 2;
}

}  // namespace curbench::cpu
