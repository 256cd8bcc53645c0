#include "../group_advantage.h"

#include "launch.h"

#define CURBENCH_EACH_ISA "group_advantage.inc"
#include "each_isa.h"

namespace curbench {

int64_t group_advantage_workspace(int estimator, int64_t groups) {
  return advantage_workspace(static_cast<Estimator>(estimator), groups);
}

namespace cpu {

template <class T>
struct WideGroups : AdvantageOfGroup<T> {};

// Launch finds this overload.
template <class T>
void run_items(const WideGroups<T>& op, int64_t first, int64_t last) {
#ifdef CURBENCH_X86
  const bool wide = op.stage == Stage::kAll && op.a.groups.order == nullptr && op.a.std_reward == nullptr &&
                    op.a.estimator != Estimator::kRlooStd;
  if (wide && isa() == Isa::kAvx512) return avx512::run_groups<T>(op, first, last);
  if (wide && isa() == Isa::kAvx2) return avx2::run_groups<T>(op, first, last);
#endif
  run_portable(static_cast<const AdvantageOfGroup<T>&>(op), first, last);
}

void group_advantage(const GroupAdvantage& args, int threads) {
  curbench::group_advantage<WideGroups>(Launch{threads}, args);
}

}  // namespace cpu
}  // namespace curbench
