#include "../group_advantage.h"

#include "launch.h"

namespace curbench::cpu {

void group_advantage(const GroupAdvantage& args, int threads) { curbench::group_advantage(Launch{threads}, args); }

}  // namespace curbench::cpu
