#include "../mirror_step.h"

#include "launch.cuh"

namespace curbench::cuda {

// Checks one slot. A fault stops the op before any arm is used as an index.
struct CheckSlot {
  MirrorStep a;

  CURBENCH_HD void operator()(int64_t j) const {
    if (!leader()) return;
    if (a.arm[j] < 0 || a.arm[j] >= a.arms) report(a.fault, j);
    if (!finite(a.loss[j])) report(a.fault + 1, j);
  }
};

// The first slot of an arm adds up all slots of that arm, in slot order: m reads per slot, but no atomics, so the
// sum has the same bits as the loop of the CPU. Thirty-two slots per item, one per lane.
struct TotalOfSlots {
  MirrorStep a;

  CURBENCH_HD void operator()(int64_t block) const {
    const MirrorStep& s = a;
    const int64_t first = block * kLanes;
    const int64_t left = s.slots - first;
    lane_for(left < kLanes ? left : kLanes, [=](int64_t l) {
      const int64_t j = first + l;
      double total = 0.0;
      for (int64_t i = 0; i < s.slots; ++i) {
        if (s.arm[i] != s.arm[j]) continue;
        if (i < j) return;
        total += s.loss[i];
      }
      s.out[s.arm[j]] = total;
    });
  }
};

bool mirror_step(const MirrorStep& args, Queue queue) {
  const Launch launch(queue);
  if (args.slots > 0) {
    launch(args.slots, CheckSlot{args});
    int64_t fault;
    launch.read(&fault, args.fault, 1);
    if (fault != INT64_MAX) return true;
    launch(ceil_div(args.slots, kLanes), TotalOfSlots{args});
  }
  return curbench::mirror_step(launch, args);
}

}  // namespace curbench::cuda
