// One step of online mirror descent with the entropy, its projection on the floor, and fixed share.
//
//   t_i = p_i exp(-eta sum of loss over the slots with arm i)
//   p_i <- (1 - share) max(floor / K, c t_i) + share / K        c such that the maxima sum to 1
//
// The maximum is the KL projection of t on {p_i >= floor / K}. One item per 1024 arms; the sums per arm are
// left in `out` by the back-end, slot by slot. Moves 56 K bytes, and 8 K per round of the search.
#pragma once

#include "blocks.h"
#include "exponential.h"
#include "kernels.h"

namespace curbench {

struct Mirror {
  MirrorStep a;
  double* mass;     // [blocks]
  double* floored;  // [blocks]
  double* fold;     // [2]
};

// The largest exponent among the arms that have a probability: subtracting it keeps exp from overflowing when
// a large gain was divided by a small propensity.
struct ShiftOfBlock {
  Mirror m;

  CURBENCH_HD void operator()(int64_t t) const {
    const double* p = m.a.probability + t * kBlock;
    const double* total = m.a.out + t * kBlock;
    const int64_t n = block_length(m.a.arms, t);
    const double eta = m.a.eta;
    const double shift = lane_max(n, [=](int64_t i) { return p[i] > 0.0 ? -eta * total[i] : -HUGE_VAL; });
    if (leader()) m.mass[t] = shift;

    const auto good = [=](int64_t i) { return p[i] >= 0.0 && finite(p[i]); };
    if (lane_count(n, good) == n) return;
    lane_for(n, [=](int64_t i) {
      if (!good(i)) report(m.a.fault + 2, t * kBlock + i);
    });
  }
};

struct TiltBlock {
  Mirror m;
  double shift;

  CURBENCH_HD void operator()(int64_t t) const {
    const double* p = m.a.probability + t * kBlock;
    double* out = m.a.out + t * kBlock;
    const int64_t n = block_length(m.a.arms, t);
    const double eta = m.a.eta, top = shift;
    if (lane_count(n, [=](int64_t i) { return out[i] != 0.0; }) == 0) {  // nearly every block of a large K
      const double same = exponential(-top);
      lane_for(n, [=](int64_t i) { out[i] = p[i] > 0.0 ? p[i] * same : 0.0; });  // same may be inf if all are dead
    } else {
      lane_for(n, [=](int64_t i) {
        const double tilted = p[i] * exponential(-eta * out[i] - top);
        out[i] = p[i] > 0.0 ? tilted : 0.0;  // the gain of a dead arm did not count for top, and may overflow
      });
    }
  }
};

// Mass of the arms above the floor at scale c, and the number of the others.
struct SplitArms {
  Mirror m;
  double scale;
  double bound;

  CURBENCH_HD void operator()(int64_t t) const {
    const double* tilted = m.a.out + t * kBlock;
    const int64_t n = block_length(m.a.arms, t);
    const double c = scale, low = bound;
    const double mass = lane_sum(n, [=](int64_t i) { return c * tilted[i] < low ? 0.0 : tilted[i]; });
    const int64_t floored = lane_count(n, [=](int64_t i) { return c * tilted[i] < low; });
    if (!leader()) return;
    m.mass[t] = mass;
    m.floored[t] = static_cast<double>(floored);
  }
};

struct ProjectBlock {
  Mirror m;
  double scale;
  double bound;

  CURBENCH_HD void operator()(int64_t t) const {
    double* out = m.a.out + t * kBlock;
    const double c = scale, low = bound, keep = 1.0 - m.a.share, spread = m.a.share / static_cast<double>(m.a.arms);
    lane_for(block_length(m.a.arms, t), [=](int64_t i) {
      const double scaled = c * out[i];
      out[i] = keep * (scaled < low ? low : scaled) + spread;
    });
  }
};

inline int64_t mirror_workspace(int64_t arms) { return 2 + 2 * ceil_div(arms, kBlock); }

// Expects the sum of the losses of each arm in args.out. False when no arm has a probability, or when the sum of the
// probabilities, its inverse, or eta times the loss of an arm overflows.
template <class Launch>
bool mirror_step(const Launch& launch, const MirrorStep& args) {
  const int64_t blocks = ceil_div(args.arms, kBlock);
  const Mirror m = {args, args.workspace + 2, args.workspace + 2 + blocks, args.workspace};

  launch(blocks, ShiftOfBlock{m});
  launch(1, FoldMax{m.mass, blocks, m.fold});
  double shift;
  launch.read(&shift, m.fold, 1);
  if (!finite(shift)) return false;
  launch(blocks, TiltBlock{m, shift});

  // Lower c until no further arm falls to the floor: Newton's method on a convex function, from the right.
  const double bound = args.floor / static_cast<double>(args.arms);
  double scale = HUGE_VAL;
  for (;;) {
    launch(blocks, SplitArms{m, scale, bound});
    launch(1, FoldSum{m.mass, blocks, m.fold});
    launch(1, FoldSum{m.floored, blocks, m.fold + 1});
    double fold[2];
    launch.read(fold, m.fold, 2);
    if (scale == HUGE_VAL && !(finite(fold[0]) && finite(1.0 / fold[0]))) return false;
    const double next = (1.0 - bound * fold[1]) / fold[0];
    if (!(next < scale)) break;
    scale = next;
  }
  launch(blocks, ProjectBlock{m, scale, bound});
  return true;
}

}  // namespace curbench
