#include "../mirror_step.h"

#include "launch.h"

namespace curbench {

int64_t mirror_step_workspace(int64_t arms) { return mirror_workspace(arms); }

namespace cpu {

bool mirror_step(const MirrorStep& args, int threads) {
  for (int64_t j = args.slots - 1; j >= 0; --j) {
    if (args.arm[j] < 0 || args.arm[j] >= args.arms) args.fault[0] = j;
    if (!finite(args.loss[j])) args.fault[1] = j;
  }
  if (args.fault[0] != INT64_MAX) return true;
  for (int64_t j = 0; j < args.slots; ++j) args.out[args.arm[j]] += args.loss[j];
  return curbench::mirror_step(Launch{threads}, args);
}

}  // namespace cpu
}  // namespace curbench
