#include "../policy_improvement.h"

#include "launch.h"

namespace curbench::cpu {

void policy_improvement(const PolicyImprovement& args, int threads) {
  curbench::policy_improvement(Launch{threads}, args);
}

}  // namespace curbench::cpu
