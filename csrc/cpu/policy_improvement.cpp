#include "../policy_improvement.h"

#include <cstring>
#include <type_traits>

#include "launch.h"

#define CURBENCH_EACH_ISA "policy_improvement.inc"
#include "each_isa.h"

namespace curbench::cpu {

struct WideRows : RatioOfRow {};

// Launch finds this overload.
void run_items(const WideRows& rows, int64_t first, int64_t last) {
  const RatioOfRow& op = rows;
#ifdef CURBENCH_X86
  if (isa() == Isa::kAvx512) return avx512::run_rows(op, first, last);
  if (isa() == Isa::kAvx2) return avx2::run_rows(op, first, last);
#endif
  run_portable(op, first, last);
}

void policy_improvement(const PolicyImprovement& args, int threads) {
  curbench::policy_improvement<WideRows>(Launch{threads}, args);
}

}  // namespace curbench::cpu
