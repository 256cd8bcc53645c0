#include "race.h"

#include <limits>

#include "isa.h"

namespace curbench::cpu {
namespace {

struct Loops {
  void (*exponentials)(const float* score, int64_t n, double top, double* weight, double* sum);
  double (*largest)(const float* score, int64_t n);
  void (*words)(const RaceClock& clock, int64_t first, int64_t n, uint32_t* high);
  void (*words_of)(const RaceClock& clock, const int64_t* id, int64_t n, uint32_t* high);
  int64_t (*below)(const uint32_t* high, const double* weight, double reach, int64_t n, uint16_t* index);
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

void exponentials(const float* score, int64_t n, double top, double* weight, double* sum) {
  loops().exponentials(score, n, top, weight, sum);
}

double largest(const float* score, int64_t n) { return loops().largest(score, n); }

// A null weight is 1 everywhere: the race of the floor.
static void run(const Race& race, uint32_t stream, Earliest& earliest, const float* score, const double* weight,
                double top, int64_t row, int64_t n) {
  const RaceClock clock = {race.seed, race.step, stream};
  uint32_t high[kBlock];
  if (race.id != nullptr)
    loops().words_of(clock, race.id + row, n, high);
  else
    loops().words(clock, race.first_id + row, n, high);
  const auto enter = [&](int64_t i) {
    const double s = static_cast<double>(score[i]);
    if (weight != nullptr && s == -HUGE_VAL) return;
    const double log_e = log_exponential(clock, race.id != nullptr ? race.id[row + i] : race.first_id + row + i, high[i]);
    earliest.add({weight != nullptr ? log_e - s : log_e, row + i, s});
  };

  // Weights that underflow to 0 stand for rates below exp(-708): as long as the scale is under exp(650), they cannot
  // arrive in time with a high word above 0.
  const double reach = earliest.limit() + top;
  if (reach < 650.0) {
    uint16_t index[kBlock];
    const int64_t survivors = loops().below(high, weight, reach, n, index);
    for (int64_t s = 0; s < survivors; ++s) enter(index[s]);
  } else {
    for (int64_t i = 0; i < n; ++i) enter(i);
  }
  earliest.prune();
}

void Race::enter(RaceLists& lists, const float* score, const double* weight, double top, int64_t row,
                 int64_t n) const {
  if (floor < 1.0 && top > -HUGE_VAL) run(*this, kRace, lists.softmax, score, weight, top, row, n);
  if (floor > 0.0) run(*this, kFloorRace, lists.uniform, score, nullptr, 0.0, row, n);
}

}  // namespace curbench::cpu
