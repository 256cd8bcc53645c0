// Stands in for the .cu files in a build without CUDA, so that nothing else has to know.
#include <stdexcept>

#include "../kernels.h"

namespace curbench::cuda {

[[noreturn]] static void absent() { throw std::runtime_error(CURBENCH_CUDA_NOTE); }

void group_advantage(const GroupAdvantage&, Queue) { absent(); }
void policy_improvement(const PolicyImprovement&, Queue) { absent(); }
BankTotals score_bank(const ScoreBank&, Queue) { absent(); }
bool mirror_step(const MirrorStep&, Queue) { absent(); }

int64_t grid_limit() { absent(); }
void set_grid_limit(int64_t) { absent(); }

int device_count(std::string* reason) {
  *reason = CURBENCH_CUDA_NOTE;  // "built without CUDA: why"
  return 0;
}

}  // namespace curbench::cuda
