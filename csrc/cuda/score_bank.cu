#include "../score_bank.h"

#include "launch.cuh"

namespace curbench::cuda {

BankTotals score_bank(const ScoreBank& args, Queue queue) {
  return curbench::score_bank(PlainBack<Launch>{Launch(queue)}, args);
}

}  // namespace curbench::cuda
