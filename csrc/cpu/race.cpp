#include "race.h"

#include <limits>

#include "isa.h"

namespace curbench::cpu {
namespace {

struct Loops {
  BlockSum (*exponential_float)(const float* score, int64_t n, double* weight);
  BlockSum (*exponential_double)(const double* score, int64_t n, double* weight);
  void (*words)(const RaceClock& clock, int64_t first, int64_t n, uint32_t* high);
  void (*words_of)(const RaceClock& clock, const int64_t* id, int64_t n, uint32_t* high);
  int64_t (*below)(const uint32_t* high, const double* weight, double scale, int64_t n, uint16_t* index);
};

}  // namespace
}  // namespace curbench::cpu

#define CURBENCH_ISA portable
#define CURBENCH_WIDTH 1
#include "race.inc"
#undef CURBENCH_ISA
#undef CURBENCH_WIDTH

#define CURBENCH_EACH_ISA "race.inc"
#include "each_isa.h"

namespace curbench::cpu {
namespace {

const Loops& loops() {
#ifdef CURBENCH_X86
  if (isa() == Isa::kAvx512) return avx512::loops;
  if (isa() == Isa::kAvx2) return avx2::loops;
#endif
  return portable::loops;
}

}  // namespace

BlockSum exponential_block(const float* score, int64_t n, double* weight) {
  return loops().exponential_float(score, n, weight);
}

BlockSum exponential_block(const double* score, int64_t n, double* weight) {
  return loops().exponential_double(score, n, weight);
}

template <class T>
void Race::run(Earliest& earliest, const RaceClock& clock, const T* score, const double* weight, double top,
               int64_t row, int64_t n, int64_t first_id, const int64_t* id) {
  uint32_t high[kBlock];
  if (id != nullptr)
    loops().words_of(clock, id + row, n, high);
  else
    loops().words(clock, first_id + row, n, high);
  const auto enter = [&](int64_t i) {
    const int64_t own = id != nullptr ? id[row + i] : first_id + row + i;
    const double log_e = log_exponential(clock, own, high[i]);
    earliest.add(score != nullptr ? log_e - static_cast<double>(score[i]) : log_e, row + i);
  };

  // Weights that underflow to 0 stand for rates below exp(-708): as long as the scale is under exp(650), they cannot
  // arrive in time with a high word above 0.
  const double reach = earliest.limit() + top;
  if (reach < 650.0) {
    uint16_t index[kBlock];
    const double scale = exponential(reach) * (0x1p32 * (1.0 + 0x1p-40));
    const int64_t survivors = loops().below(high, weight, scale, n, index);
    for (int64_t s = 0; s < survivors; ++s) enter(index[s]);
  } else {
    for (int64_t i = 0; i < n; ++i) enter(i);
  }
  earliest.prune();
}

template void Race::run(Earliest&, const RaceClock&, const float*, const double*, double, int64_t, int64_t, int64_t,
                        const int64_t*);
template void Race::run(Earliest&, const RaceClock&, const double*, const double*, double, int64_t, int64_t, int64_t,
                        const int64_t*);

}  // namespace curbench::cpu
