#include "../group_advantage.h"

#include "launch.cuh"

namespace curbench::cuda {

void group_advantage(const GroupAdvantage& args, Queue queue) { curbench::group_advantage(Launch(queue), args); }

}  // namespace curbench::cuda
