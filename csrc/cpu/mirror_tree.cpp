// Online mirror descent over many arms, where a step and a draw cost log K and not K.
//
//   e_i <- e_i exp(-eta sum of loss over the slots with arm i)        p_i = e_i / sum e
//   e_i <- max(e_i, l)    l such that l / sum e = floor / K           the KL projection on {p_i >= floor / K}
//   e_i <- e_i + b        b = share / (1 - share) sum e / K           fixed share
//
// A 16-ary tree over the arms. A node knows the smallest value below it, how many arms have it, the next larger value
// and the sum of the arms above the smallest: its mass is rest + count low. So raising all arms below it to a level
// under `next` is one store into `low`, which its descendants inherit when they are next visited; a higher level goes
// on to those children that have arms below it ("segment tree beats", Ji 2016). Every such visit makes two values one,
// and a step makes at most as many new ones as it has slots: m slots cost m log K steps, amortised, projection included.
// Adding to all arms is one global number. Sums are recomputed from the children in a fixed order and never updated, so
// the tree is a function of its leaves: nothing drifts, and a tree rebuilt from them continues with the same bits.
//
// Per arm 8 bytes of leaf and 2.2 of nodes. A step touches 10 cache lines per level and slot, a draw 6.
#include <algorithm>
#include <cfloat>
#include <cstddef>

#include "../exponential.h"
#include "../kernels.h"
#include "../lanes.h"
#include "../philox.h"
#include "../score_bank.h"
#include "launch.h"

namespace curbench {
namespace {

constexpr int kFan = 16;
constexpr int kLevels = 12;         // 16^12 arms
constexpr int kAhead = 8;           // entries between a prefetch and its use
constexpr int kFetched = 3;         // levels that may not be in the cache
constexpr int kBatch = 64;          // draws that descend together
constexpr double kLimit = 0x1p200;  // the mass is kept in [1 / kLimit, kLimit]
constexpr double kNone = DBL_MAX;   // in a place without an arm, and where there is no next value
constexpr double kLog2e = 0x1.71547652b82fep+0;

struct Summary {
  double rest, low, count, next;
};

// The summaries of sixteen siblings.
struct Family {
  double rest[kFan], low[kFan], count[kFan], next[kFan];

  Summary at(int64_t i) const { return {rest[i], low[i], count[i], next[i]}; }

  CURBENCH_HD void set(int64_t i, const Summary& s) {
    rest[i] = s.rest;
    low[i] = s.low;
    count[i] = s.count;
    next[i] = s.next;
  }
};

template <class Join>
CURBENCH_HD double joined(double (&value)[kFan], Join join) {
  return tree<kFan>(value, join);
}

CURBENCH_HD double smaller(double a, double b) { return a < b ? a : b; }
CURBENCH_HD double larger(double a, double b) { return a > b ? a : b; }
CURBENCH_HD double plus(double a, double b) { return a + b; }

CURBENCH_HD Summary summary(const Family& f) {
  double a[kFan], b[kFan], c[kFan];
  for (int i = 0; i < kFan; ++i) a[i] = f.low[i];
  const double low = joined(a, smaller);
  for (int i = 0; i < kFan; ++i) {
    const bool lowest = f.low[i] == low;
    a[i] = lowest ? f.next[i] : f.low[i];
    b[i] = f.rest[i] + (lowest ? 0.0 : f.count[i] * f.low[i]);
    c[i] = lowest ? f.count[i] : 0.0;
  }
  return {joined(b, plus), low, joined(c, plus), joined(a, smaller)};
}

CURBENCH_HD Summary summary(const double* leaf) {
  double a[kFan], b[kFan], c[kFan];
  for (int i = 0; i < kFan; ++i) a[i] = leaf[i];
  const double low = joined(a, smaller);
  for (int i = 0; i < kFan; ++i) {
    const bool lowest = leaf[i] == low;
    a[i] = lowest ? kNone : leaf[i];
    b[i] = lowest || leaf[i] == kNone ? 0.0 : leaf[i];
    c[i] = lowest ? 1.0 : 0.0;
  }
  return {joined(b, plus), low, joined(c, plus), joined(a, smaller)};
}

// Number of nodes of a level, whose level 0 are the arms.
CURBENCH_HD int64_t nodes_of(int64_t arms, int level) { return ((arms - 1) >> (4 * level)) + 1; }

// The children of node i of level l are family[l - 1][i], those of level 1 the leaves from 16 i. The root is the one
// node of level `top`.
struct Tree {
  int64_t arms;
  int top;
  double* add;   // in every arm, on top of its leaf
  double* lazy;  // nonzero when a node may be above its descendants
  double* leaf;  // [16 nodes of level 1]
  Family* family[kLevels + 1];

  Summary root() const { return family[top][0].at(0); }

  double mass() const {
    const Summary r = root();
    return r.rest + r.count * r.low + static_cast<double>(arms) * *add;
  }
};

constexpr int64_t kHead = 8;  // so that families start where cache lines do

Tree tree_of(const MirrorTree& args) {
  Tree t = {args.arms, 0, args.state, args.state + 1, nullptr, {}};
  double* free = args.state + kHead;
  t.leaf = free;
  free += kFan * nodes_of(t.arms, 1);
  do {
    t.family[++t.top] = reinterpret_cast<Family*>(free);
    free += nodes_of(t.arms, t.top + 1) * static_cast<int64_t>(sizeof(Family) / sizeof(double));
  } while (nodes_of(t.arms, t.top) > 1);
  return t;
}

CURBENCH_HD Summary below(const Tree& t, int level, int64_t node) {
  return level == 1 ? summary(t.leaf + node * kFan) : summary(t.family[level - 1][node]);
}

CURBENCH_HD void refresh_node(const Tree& t, int level, int64_t node) {
  t.family[level][node / kFan].set(node % kFan, below(t, level, node));
}

struct SummariseFamily {
  Tree t;
  int level;

  CURBENCH_HD void operator()(int64_t f) const {
    const int64_t nodes = nodes_of(t.arms, level);
    for (int64_t i = 0; i < kFan; ++i) {
      const int64_t node = f * kFan + i;
      t.family[level][f].set(i, node < nodes ? below(t, level, node) : Summary{0.0, kNone, 0.0, kNone});
    }
  }
};

void summarise(const Tree& t, int threads) {
  for (int level = 1; level <= t.top; ++level)
    cpu::Launch{threads}(nodes_of(t.arms, level + 1), SummariseFamily{t, level});
}

CURBENCH_HD void raise(double* value, double low) {
  for (int i = 0; i < kFan; ++i) value[i] = larger(value[i], low);
}

// Hands the lowest value of a node to its children.
CURBENCH_HD void push(const Tree& t, int level, int64_t node) {
  const double low = t.family[level][node / kFan].low[node % kFan];
  raise(level == 1 ? t.leaf + node * kFan : t.family[level - 1][node].low, low);
}

struct PushNode {
  Tree t;
  int level;

  CURBENCH_HD void operator()(int64_t node) const { push(t, level, node); }
};

struct ScaleBlock {
  Tree t;
  double factor, again;

  CURBENCH_HD void operator()(int64_t node) const {
    double* leaf = t.leaf + node * kFan;
    const double b = *t.add;
    for (int i = 0; i < kFan; ++i) leaf[i] = leaf[i] == kNone ? kNone : (leaf[i] + b) * factor * again;
  }
};

// Every leaf its own value again, divided by 2^exponent. A pass over all arms.
void settle(const Tree& t, double exponent, int threads) {
  const cpu::Launch launch{threads};
  for (int level = t.top; level >= 1 && *t.lazy != 0.0; --level) launch(nodes_of(t.arms, level), PushNode{t, level});
  const int whole = static_cast<int>(std::max(-2000.0, std::min(exponent, 2000.0)));
  launch(nodes_of(t.arms, 1), ScaleBlock{t, std::ldexp(1.0, -whole / 2), std::ldexp(1.0, whole / 2 - whole)});
  *t.add = *t.lazy = 0.0;
  summarise(t, threads);
}

// Asks for what lies below a node of this level before it is needed, `next` only where nodes change. What is higher up
// stays in the cache.
CURBENCH_HD void fetch(const Tree& t, int level, int64_t node, bool to_change) {
  if (level > kFetched) return;
  const char* start = level == 1 ? reinterpret_cast<const char*>(t.leaf + node * kFan)
                                 : reinterpret_cast<const char*>(t.family[level - 1] + node);
  const size_t bytes = level == 1 ? kFan * sizeof(double) : to_change ? sizeof(Family) : offsetof(Family, next);
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(start + i);
}

// The nodes of a level above the sorted arms id[0..n), each once.
struct NodesAbove {
  Tree t;
  int level;
  const int64_t* id;
  int64_t n;

  // -1 for a node that the arm before had too.
  CURBENCH_HD int64_t node(int64_t u) const {
    if (u + kAhead < n) fetch(t, level, id[u + kAhead] >> (4 * level), true);
    const int64_t node = id[u] >> (4 * level);
    return u > 0 && node == id[u - 1] >> (4 * level) ? -1 : node;
  }
};

struct OpenNode {
  NodesAbove nodes;

  CURBENCH_HD void operator()(int64_t u) const {
    const int64_t node = nodes.node(u);
    if (node >= 0) push(nodes.t, nodes.level, node);
  }
};

struct RefreshNode {
  NodesAbove nodes;

  CURBENCH_HD void operator()(int64_t u) const {
    const int64_t node = nodes.node(u);
    if (node >= 0) refresh_node(nodes.t, nodes.level, node);
  }
};

// After this the leaves of the arms are their values, but for *t.add.
void open_paths(const Tree& t, const int64_t* id, int64_t n) {
  for (int level = t.top; level >= 1 && *t.lazy != 0.0; --level) cpu::run_items(OpenNode{{t, level, id, n}}, 0, n);
}

// After the leaves of these arms have changed.
void refresh(const Tree& t, const int64_t* id, int64_t n) {
  for (int level = 1; level <= t.top; ++level) cpu::run_items(RefreshNode{{t, level, id, n}}, 0, n);
}

struct RaiseLeaves {
  Tree t;
  double low;

  CURBENCH_HD void operator()(int64_t node) const {
    raise(t.leaf + node * kFan, low);
    refresh_node(t, 1, node);
  }
};

struct RefreshOne {
  Tree t;
  int level;

  CURBENCH_HD void operator()(int64_t node) const { refresh_node(t, level, node); }
};

// Raises every arm below a node to `low`.
void raise_node(const Tree& t, int level, int64_t node, double low) {
  Family& family = t.family[level][node / kFan];
  const int64_t i = node % kFan;
  if (low <= family.low[i]) return;
  if (low < family.next[i]) {
    family.low[i] = low;
    *t.lazy = 1.0;
  } else if (level == 1) {
    cpu::run_items(RaiseLeaves{t, low}, node, node + 1);
  } else {
    const Family& children = t.family[level - 1][node];
    for (int64_t c = 0; c < kFan; ++c)
      if (children.low[c] < low) raise_node(t, level - 1, node * kFan + c, low);
    cpu::run_items(RefreshOne{t, level}, node, node + 1);
  }
}

// Newton's method for the level l with sum max(l, e) = l K / floor, from below: what it raises on the way, the solution
// raises too. It ends when no further arm falls under the level.
void project(const Tree& t, double floor) {
  const double arms = static_cast<double>(t.arms);
  double level = floor * t.mass() / arms, floored = 0.0;
  while (level - *t.add > t.root().low) {
    raise_node(t, t.top, 0, level - *t.add);
    const Summary r = t.root();
    if (r.count == floored || r.count == arms) return;
    floored = r.count;
    level = floor * (r.rest + (arms - floored) * *t.add) / (arms - floor * floored);
  }
}

// What to add to every arm to give the uniform distribution this share; beyond the limit the rest is below rounding.
double shared(const Tree& t, double share) {
  return std::min(share / (1.0 - share), kLimit) * t.mass() / static_cast<double>(t.arms);
}

// e exp(x), where exp(x) may be out of range; 0 for a dead arm whatever its gain.
struct Tilt {
  const double* e;
  const double* x;
  double* out;

  CURBENCH_HD void operator()(int64_t u) const {
    const double root = exponential(0.5 * x[u]), value = e[u] * root * root;
    out[u] = e[u] > 0.0 ? value : 0.0;
  }
};

// The bits that tell n slots apart, below those of the arm in one number.
int bits_for(int64_t n) {
  int bits = 0;
  while (int64_t{1} << bits < n) ++bits;
  return bits;
}

// The arms that a step changes.
struct Change {
  int64_t* id;       // [n], sorted
  double* exponent;  // [n], -eta times the losses of the arm, added in the order of the slots
  double* before;    // [n], e
  double* after;     // [n]
  int64_t n;

  // Largest exponent of an arm that is alive; inf when one of them overflowed.
  double highest() const {
    double high = -HUGE_VAL;
    for (int64_t u = 0; u < n; ++u) {
      const double x = exponent[u] < HUGE_VAL ? exponent[u] : HUGE_VAL;
      high = larger(high, before[u] > 0.0 ? x : -HUGE_VAL);
    }
    return high;
  }

  // Binary logarithm of the largest new value.
  double top() const {
    double high = -HUGE_VAL;
    for (int64_t u = 0; u < n; ++u)
      if (before[u] > 0.0) high = larger(high, std::ilogb(before[u]) + exponent[u] * kLog2e);
    return high;
  }

  // Divides the new values by 2^k. First the exponents become small: they may be too large to be told from k ln 2.
  void lower(double k) {
    const double high = highest();
    if (high == -HUGE_VAL) return;
    const double left = std::max(-800.0, std::min(high - k / kLog2e, 800.0));
    for (int64_t u = 0; u < n; ++u) exponent[u] = (exponent[u] - high) + left;
  }

  void write(const Tree& t) const {
    cpu::run_items(Tilt{before, exponent, after}, 0, n);
    for (int64_t u = 0; u < n; ++u) t.leaf[id[u]] = after[u] - *t.add;
    refresh(t, id, n);
  }
};

Change change_of(const Tree& t, const MirrorTreeStep& a) {
  Change change = {a.id, a.value, a.value + a.slots, a.value + 2 * a.slots, 0};
  const int bits = bits_for(a.slots);
  int64_t* key = a.id;
  for (int64_t j = 0; j < a.slots; ++j) key[j] = a.arm[j] << bits | j;
  std::sort(key, key + a.slots);
  for (int64_t k = 0; k < a.slots; ++change.n) {
    const int64_t arm = key[k] >> bits;
    double total = 0.0;
    for (; k < a.slots && key[k] >> bits == arm; ++k) total += a.loss[key[k] - (arm << bits)];
    change.id[change.n] = arm;
    change.exponent[change.n] = -a.eta * total;
  }
  open_paths(t, change.id, change.n);
  for (int64_t u = 0; u < change.n; ++u) change.before[u] = t.leaf[change.id[u]] + *t.add;
  return change;
}

// The exponentiated step. A mass that leaves the range is brought back by a power of two, which changes no ratio; arms
// that are then too small for a double are dead, as in the dense step. False, and nothing changed, when all would be,
// or an exponent overflows.
bool tilt(const Tree& t, Change change, int threads) {
  const double high = change.highest();
  if (high == HUGE_VAL) return false;
  double off = std::ilogb(t.mass()) + high * kLog2e > 150.0 ? change.top() : 0.0;
  for (;;) {
    if (off != 0.0) {
      settle(t, std::ceil(off), threads);
      change.lower(std::ceil(off));
    }
    change.write(t);
    const double mass = t.mass();
    if (mass > 1.0 / kLimit) return true;
    off = larger(change.top(), mass > 0.0 ? std::ilogb(mass) : -HUGE_VAL);
    if (off > -HUGE_VAL) continue;
    std::fill_n(change.exponent, change.n, 0.0);
    change.write(t);
    return false;
  }
}

// Where a draw is on its way down.
struct Cursor {
  int64_t node;
  double point;  // within the mass of the node
  double low;    // the highest `low` on the way
};

// The first of four places whose prefix sum passes the point, which then starts there.
CURBENCH_HD int pick_of_four(const double* mass, double* point) {
  const double first = mass[0], second = first + mass[1], third = second + mass[2];
  const double before[] = {0.0, first, second, third};
  const int chosen = (first <= *point ? 1 : 0) + (second <= *point ? 1 : 0) + (third <= *point ? 1 : 0);
  *point -= before[chosen];
  return chosen;
}

// The same of sixteen: by fours, so that no sum waits for fifteen others. Never a place without mass, whatever rounding
// does to the point.
CURBENCH_HD int64_t pick(const double (&mass)[kFan], double* point) {
  double four[4];
  for (int g = 0; g < 4; ++g) four[g] = (mass[4 * g] + mass[4 * g + 1]) + (mass[4 * g + 2] + mass[4 * g + 3]);
  const int group = pick_of_four(four, point);
  int chosen = 4 * group + pick_of_four(mass + 4 * group, point);
  while (chosen > 0 && mass[chosen] == 0.0) --chosen;
  while (chosen + 1 < kFan && mass[chosen] == 0.0) ++chosen;
  return chosen;
}

// The masses of the children of a node, with `low` from above; and of sixteen arms.
CURBENCH_HD void masses(const Tree& t, int level, int64_t node, double low, double (&mass)[kFan]) {
  const double b = *t.add;
  if (level == 1) {
    const double* leaf = t.leaf + node * kFan;
    for (int i = 0; i < kFan; ++i) mass[i] = leaf[i] == kNone ? 0.0 : larger(larger(leaf[i], low) + b, 0.0);
    return;
  }
  const Family& f = t.family[level - 1][node];
  const int shift = 4 * (level - 1);
  const int64_t arms = int64_t{1} << shift;
  const double all = static_cast<double>(arms) * b;
  for (int i = 0; i < kFan; ++i)
    mass[i] = larger(f.rest[i] + f.count[i] * larger(f.low[i], low) + all, 0.0);
  const int64_t last = ((t.arms - 1) >> shift) - node * kFan;  // the child that may have fewer arms, if it is here
  if (last >= kFan) return;
  const double some = static_cast<double>(t.arms - (node * kFan + last) * arms) * b;
  mass[last] = larger(f.rest[last] + f.count[last] * larger(f.low[last], low) + some, 0.0);
  for (int64_t i = last + 1; i < kFan; ++i) mass[i] = 0.0;
}

CURBENCH_HD void descend(const Tree& t, int level, Cursor* c) {
  double mass[kFan];
  masses(t, level, c->node, c->low, mass);
  c->node = c->node * kFan + pick(mass, &c->point);
  if (level > 1) c->low = larger(c->low, t.family[level - 1][c->node >> 4].low[c->node & 15]);
}

// The arms where the prefix sums of the values pass the points, and their values but for *t.add. A batch goes down level
// by level, so that its cache misses overlap.
struct FindBatch {
  Tree t;
  const double* point;
  int64_t n;
  int64_t* arm;
  double* value;

  CURBENCH_HD void operator()(int64_t batch) const {
    const int64_t first = batch * kBatch;
    const int64_t width = n - first < kBatch ? n - first : kBatch;
    Cursor cursor[kBatch];
    for (int64_t j = 0; j < width; ++j) cursor[j] = {0, point[first + j], t.root().low};
    for (int level = t.top; level >= 1; --level) {
      for (int64_t j = 0; j < width; ++j) {
        descend(t, level, cursor + j);
        if (level > 1) fetch(t, level - 1, cursor[j].node, false);
      }
    }
    for (int64_t j = 0; j < width; ++j) {
      arm[first + j] = cursor[j].node;
      value[first + j] = larger(t.leaf[cursor[j].node], cursor[j].low);
    }
  }
};

void find(const Tree& t, const double* point, int64_t n, int64_t* arm, double* value) {
  cpu::run_items(FindBatch{t, point, n, arm, value}, 0, ceil_div(n, kBatch));
}

// The same for the arms of value at least `least` below a node; room for `most` of them.
void find_large(const Tree& t, int level, int64_t node, double low, double least, int64_t most, int64_t* arm,
                double* value, int64_t* n) {
  double mass[kFan];
  masses(t, level, node, low, mass);
  for (int64_t i = 0; i < kFan && *n < most; ++i) {
    if (mass[i] < least) continue;
    const int64_t child = node * kFan + i;
    if (level > 1) {
      const double lower = larger(low, t.family[level - 1][node].low[i]);
      find_large(t, level - 1, child, lower, least, most, arm, value, n);
    } else {
      arm[*n] = child;
      value[(*n)++] = larger(t.leaf[child], low);
    }
  }
}

double value_of(const Tree& t, int64_t arm) {
  double value = t.leaf[arm];
  for (int level = 1; level <= t.top; ++level) {
    const int64_t node = arm >> (4 * level);
    value = larger(value, t.family[level][node / kFan].low[node % kFan]);
  }
  return value;
}

struct Drawing {
  const Tree& t;
  const MirrorTreeDraw& a;
  double* value;    // [count], of a.arm but for *t.add
  double* scratch;  // [count]
  int64_t* id;      // [count]

  double value_at(int64_t k) const { return value[k] + *t.add; }

  // Takes arms [first, first + n) of the output out of the tree.
  void remove(int64_t first, int64_t n) const {
    std::copy_n(a.arm + first, n, id);
    std::sort(id, id + n);
    open_paths(t, id, n);
    for (int64_t u = 0; u < n; ++u) t.leaf[id[u]] = -*t.add;
    refresh(t, id, n);
  }

  void give_back(int64_t n) const {
    for (int64_t k = 0; k < n; ++k) t.leaf[a.arm[k]] = value[k];
    std::copy_n(a.arm, n, id);
    std::sort(id, id + n);
    refresh(t, id, n);
  }

  void iid() const {
    const double mass = t.mass();
    for (int64_t k = 0; k < a.count; ++k)
      scratch[k] = mass * uniform(a.seed, kDraw, a.step, static_cast<uint64_t>(k));
    find(t, scratch, a.count, a.arm, value);
    for (int64_t k = 0; k < a.count; ++k) a.propensity[k] = value_at(k) / mass;
  }

  // Moves the arms of [first, first + n) that come for the first time to the front, in order. Returns their number.
  int64_t keep_new(int64_t first, int64_t n) const {
    const int bits = bits_for(n);
    for (int64_t j = 0; j < n; ++j) id[j] = a.arm[first + j] << bits | j;
    std::sort(id, id + n);
    int64_t kept = 0;
    for (int64_t j = 0, before = -1; j < n; ++j) {
      const int64_t arm = id[j] >> bits;
      if (arm != before) id[kept++] = id[j] - (arm << bits);
      before = arm;
    }
    std::sort(id, id + kept);
    for (int64_t j = 0; j < kept; ++j) {
      a.arm[first + j] = a.arm[first + id[j]];
      value[first + j] = value[first + id[j]];
    }
    return kept;
  }

  // Draws from what is left, repeats ignored, are the order in which exponential clocks of these rates ring, and the
  // clocks have no memory: it is as well to take the arms out after every round. The time of the first clock that is
  // not drawn needs only the masses between the arrivals.
  int64_t race() const {
    int64_t drawn = 0;
    for (uint64_t index = 0; drawn < a.count;) {
      const double mass = t.mass();
      if (!(mass > 0.0)) break;
      const int64_t left = a.count - drawn;
      for (int64_t j = 0; j < left; ++j) scratch[j] = mass * uniform(a.seed, kDraw, a.step, index++);
      find(t, scratch, left, a.arm + drawn, value + drawn);
      const int64_t kept = keep_new(drawn, left);
      remove(drawn, kept);
      drawn += kept;
    }
    double mass = t.mass(), time = 0.0;
    give_back(drawn);
    if (drawn < a.count) return drawn;
    for (int64_t k = a.count; k >= 0; --k) {
      const double wait = -std::log1p(-uniform(a.seed, kArrival, a.step, static_cast<uint64_t>(k)));
      time += wait / mass;  // infinite when nothing is left
      if (k > 0) mass += value_at(k - 1);
    }
    for (int64_t k = 0; k < a.count; ++k) a.propensity[k] = -std::expm1(-value_at(k) * time);
    return -1;
  }

  // As in score_bank.h: arms that are certain, in their order, then equally spaced points in the mass of the others.
  int64_t systematic() const {
    int64_t certain = 0;
    double mass = t.mass();
    for (; certain < a.count; mass = t.mass()) {
      if (!(mass > 0.0)) break;
      const int64_t left = a.count - certain;
      const double least = kCertain * mass / static_cast<double>(left);
      int64_t n = 0;
      find_large(t, t.top, 0, t.root().low, least, left, a.arm + certain, value + certain, &n);
      if (n == 0) break;
      remove(certain, n);
      certain += n;
    }
    const int64_t left = a.count - certain;
    if (left > 0 && mass > 0.0) {
      const double offset = uniform(a.seed, kSystematic, a.step, 0);
      for (int64_t j = 0; j < left; ++j)
        scratch[j] = (offset + static_cast<double>(j)) / static_cast<double>(left) * mass;
      find(t, scratch, left, a.arm + certain, value + certain);
    }
    give_back(certain);
    if (left > 0 && !(mass > 0.0)) return certain;
    std::sort(a.arm, a.arm + certain);
    for (int64_t k = 0; k < certain; ++k) value[k] = value_of(t, a.arm[k]);
    for (int64_t k = 0; k < a.count; ++k)
      a.propensity[k] = k < certain ? 1.0 : value_at(k) * static_cast<double>(left) / mass;
    return -1;
  }
};

}  // namespace

namespace cpu {

int64_t mirror_tree_size(int64_t arms) {
  int64_t families = 0;
  int level = 0;
  do {
    families += nodes_of(arms, ++level + 1);
  } while (nodes_of(arms, level) > 1);
  return kHead + kFan * nodes_of(arms, 1) + families * static_cast<int64_t>(sizeof(Family) / sizeof(double));
}

bool mirror_tree_build(const MirrorTree& args, const double* probability, int64_t* fault, int threads) {
  const Tree t = tree_of(args);
  for (int64_t i = t.arms - 1; i >= 0; --i)
    if (!(probability[i] >= 0.0 && finite(probability[i]))) *fault = i;
  if (*fault != INT64_MAX) return true;
  std::copy_n(probability, t.arms, t.leaf);
  std::fill(t.leaf + t.arms, t.leaf + kFan * nodes_of(t.arms, 1), kNone);
  *t.add = *t.lazy = 0.0;
  summarise(t, threads);
  const double mass = t.mass();
  if (!(mass > 0.0 && finite(mass))) return false;
  if (mass < 1.0 / kLimit || mass > kLimit) settle(t, std::ilogb(mass), threads);
  return true;
}

bool mirror_tree_step(const MirrorTreeStep& a, int threads) {
  for (int64_t j = a.slots - 1; j >= 0; --j) {
    if (a.arm[j] < 0 || a.arm[j] >= a.tree.arms) a.fault[0] = j;
    if (!finite(a.loss[j])) a.fault[1] = j;
  }
  if (a.fault[0] != INT64_MAX || a.fault[1] != INT64_MAX) return true;
  const Tree t = tree_of(a.tree);
  if (!tilt(t, change_of(t, a), threads)) return false;
  if (a.floor > 0.0) project(t, a.floor);
  if (a.share > 0.0) *t.add += shared(t, a.share);
  const double mass = t.mass();
  if (mass < 1.0 / kLimit || mass > kLimit) settle(t, std::ilogb(mass), threads);
  return true;
}

int64_t mirror_tree_draw(const MirrorTreeDraw& a) {
  const Tree t = tree_of(a.tree);
  const double add = *t.add, mass = t.mass();
  *t.add += shared(t, a.mix);
  const Drawing drawing = {t, a, a.value, a.value + a.count, a.id};
  int64_t reachable = -1;
  if (a.design == Design::kIid)
    drawing.iid();
  else
    reachable = a.design == Design::kRace ? drawing.race() : drawing.systematic();
  *t.add = add;
  if (reachable < 0)
    for (int64_t k = 0; k < a.count; ++k) a.probability[k] = (a.value[k] + add) / mass;
  return reachable;
}

void mirror_tree_read(const MirrorTree& args, const int64_t* arm, int64_t n, double* probability, int64_t* fault) {
  const Tree t = tree_of(args);
  const double mass = t.mass();
  for (int64_t j = n - 1; j >= 0; --j) {
    if (arm[j] < 0 || arm[j] >= t.arms)
      *fault = j;
    else
      probability[j] = (value_of(t, arm[j]) + *t.add) / mass;
  }
}

void mirror_tree_settle(const MirrorTree& args, int threads) { settle(tree_of(args), 0.0, threads); }

}  // namespace cpu
}  // namespace curbench
