#include "../policy_improvement.h"

#include "launch.cuh"

namespace curbench::cuda {

void policy_improvement(const PolicyImprovement& args, Queue queue) {
  curbench::policy_improvement(Launch(queue), args);
}

}  // namespace curbench::cuda
