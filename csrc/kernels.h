// Arguments of every op as raw pointers, and its two entry points.
//
// The same struct goes to both back-ends; all pointers of a call live where it runs. Shapes: N problems of a bank,
// F features, M candidates, B groups, R rollouts, L tokens, K arms. Nothing here allocates: outputs and workspaces
// come from the caller. A `fault` entry holds INT64_MAX, or the smallest index that broke its rule.
#pragma once

#include <cstdint>
#include <string>

namespace curbench {

// Group b owns the places offset[b] .. offset[b + 1], or b * size .. (b + 1) * size when offset is null. A place is a
// slot, or says where its slot is when order is not null.
struct Groups {
  const int64_t* offset;  // [count + 1] or null
  const int64_t* order;   // [slots] or null
  int64_t size;
  int64_t count;  // B
  int64_t slots;  // R
};

enum class Estimator : int { kGrpo, kDrGrpo, kRloo, kGrpoBatch, kRlooStd };
enum class EpsMode : int { kAdd, kFloorVariance, kUnlessZero };

struct GroupAdvantage {
  const void* reward;  // float or double [R]
  bool is_double;
  const void* std_reward;  // as reward, or null: what the standard deviation is taken of
  Groups groups;
  Estimator estimator;
  int64_t ddof;
  double eps;
  EpsMode eps_mode;
  bool singleton_raw;      // a group of one has mean 0 and standard deviation 1
  bool skip_nan;           // a NaN reward does not count, and its advantage is 0
  const uint8_t* success;  // [R] or null
  void* advantage;         // as reward
  int64_t* n;              // [B], as all below
  double* mean;
  double* var;
  uint8_t* degenerate;
  double* abs_advantage;
  int64_t* success_count;  // null when success is
  double* workspace;       // group_advantage_workspace(estimator, B) doubles
  int64_t* fault;  // [5]: reward not finite, group with bad bounds, group of one, group whose order is outside,
                   // std_reward not finite
};

int64_t group_advantage_workspace(int estimator, int64_t groups);

enum class RatioKind : int { kSequenceMean, kSequence, kTokenMean };

struct PolicyImprovement {
  const void* new_logprob;  // float or bfloat16 [R, L], rows new_stride apart; [L] with bound
  bool new_bf16;
  int64_t new_stride;
  const void* old_logprob;
  bool old_bf16;
  int64_t old_stride;
  int64_t tokens;    // L
  const void* mask;  // uint8 or, if wide, int64 [R, L] or [L], or null: every token
  bool wide_mask;
  int64_t mask_stride;
  const int64_t* length;    // [R], leading tokens of a row, or null: all
  const int64_t* bound;     // [R + 1], row r is bound[r] .. bound[r + 1] of what is then packed, or null
  const double* advantage;  // [R]
  Groups groups;
  RatioKind kind;
  double clip_low;   // bounds of a ratio; -inf and inf for none
  double clip_high;
  bool surrogate;        // the utility is the mean of ratio A, not of (ratio - 1) A
  double* utility;       // [B]
  double* ratio;         // [R]
  int64_t* token_count;  // [R]
  int64_t* fault;        // [5]: row with bad length or bounds, row with bad ratio, group with bad bounds, group with
                         // bad utility, group whose order is outside
};

enum class Dtype : int { kFloat32, kBfloat16, kInt8 };
enum class Activation : int { kNone, kGelu, kGeluTanh };
enum class Design : int { kIid, kSystematic, kRace };

struct ScoreBank {
  const void* feature;  // [N, F] of dtype, rows stride entries apart; null when the scores are given
  Dtype dtype;
  int64_t stride;
  int64_t problems;        // N
  int64_t features;        // F
  int64_t hidden;          // H of an MLP head, 0 for a linear one
  Activation activation;   // kNone for a linear head
  const float* weight;     // [F], or [H] of an MLP head; null when fixed is not
  const int32_t* fixed;    // [F], the weights of an int8 bank with a linear head, in multiples of unit
  double unit;
  const float* layer;       // [F, H], first layer of an MLP head; multiples of bfloat16 when the bank is
  const float* layer_bias;  // [H]
  double bias;
  const float* row_scale;   // [N] or null: what the features of an int8 row are multiples of
  double temperature;
  const float* prior;      // [N] or null, added to the score
  const int64_t* candidate;  // [M], or null for the whole bank
  int64_t rows;              // M
  int64_t count;             // 0: scores only
  Design design;
  double floor;
  double nucleus;  // share of the softmax to keep, in (0, 1]
  uint64_t seed;
  uint32_t step;
  float* score;         // [M]
  float* kept;          // [M], written when nucleus < 1; else null
  int64_t* problem;     // [count], as the two below
  double* propensity;
  double* probability;
  double* workspace;  // score_bank_workspace(M, count) doubles
  int64_t* fault;     // [2]: candidate outside the bank, candidate whose score is not finite
};

struct BankTotals {
  double log_normaliser;  // of what the nucleus keeps
  double mass;            // share of the softmax that it keeps
  double log_time;        // of the first arrival after the race; inf without one
  int64_t reachable;      // candidates that can be drawn, known only when fewer than count of them exist; else -1
};

int64_t score_bank_workspace(int64_t rows, int64_t count);

struct MirrorStep {
  const double* probability;  // [K]
  int64_t arms;               // K
  const int64_t* arm;         // [m]
  const double* loss;         // [m]
  int64_t slots;              // m
  double eta;
  double floor;
  double share;
  double* out;        // [K], zero on entry
  double* workspace;  // mirror_step_workspace(K) doubles
  int64_t* fault;     // [3]: slot whose arm is outside, slot whose loss is not finite, bad probability
};

int64_t mirror_step_workspace(int64_t arms);

// Online mirror descent in a sum tree, on the CPU: cpu/mirror_tree.cpp.
struct MirrorTree {
  int64_t arms;   // K
  double* state;  // [mirror_tree_size(K)], best where a cache line starts
};

struct MirrorTreeStep {
  MirrorTree tree;
  const int64_t* arm;  // [m]
  const double* loss;  // [m]
  int64_t slots;       // m; K m < 2^62
  double eta;
  double floor;
  double share;
  int64_t* id;     // [m], workspace
  double* value;   // [3 m], workspace
  int64_t* fault;  // [2]: slot whose arm is outside, slot whose loss is not finite
};

struct MirrorTreeDraw {
  MirrorTree tree;
  int64_t count;
  Design design;
  double mix;
  uint64_t seed;
  uint32_t step;
  int64_t* arm;  // [count], as the two below
  double* propensity;
  double* probability;
  int64_t* id;    // [count], workspace
  double* value;  // [2 count], workspace
};

namespace cpu {

void group_advantage(const GroupAdvantage& args, int threads);
void policy_improvement(const PolicyImprovement& args, int threads);
BankTotals score_bank(const ScoreBank& args, int threads);
bool mirror_step(const MirrorStep& args, int threads);  // false: see mirror_step.h

int64_t mirror_tree_size(int64_t arms);
// False when the sum of the probabilities overflows or is 0; *fault is the arm of one that is negative or not finite.
bool mirror_tree_build(const MirrorTree& args, const double* probability, int64_t* fault, int threads);
bool mirror_tree_step(const MirrorTreeStep& args, int threads);  // false, and unchanged: an exponent overflows
int64_t mirror_tree_draw(const MirrorTreeDraw& args);  // -1, or how many arms can be drawn
void mirror_tree_read(const MirrorTree& args, const int64_t* arm, int64_t n, double* probability, int64_t* fault);
void mirror_tree_settle(const MirrorTree& args, int threads);  // afterwards state[8 .. 8 + K] are the values

// Sum of 64-bit words, for measuring what one thread can read.
uint64_t read_words(const uint64_t* word, int64_t count);

// Multiplies and adds in registers and returns how many operations that were, to measure how many one thread can do:
// in float32, or in pairs of bfloat16 where the processor has them.
int64_t multiply_add(bool bfloat16, int64_t rounds);

}  // namespace cpu

namespace cuda {

struct Queue {
  int device;
  void* stream;  // cudaStream_t
};

void group_advantage(const GroupAdvantage& args, Queue queue);
void policy_improvement(const PolicyImprovement& args, Queue queue);
BankTotals score_bank(const ScoreBank& args, Queue queue);  // waits for the device
bool mirror_step(const MirrorStep& args, Queue queue);      // waits for the device

// Number of usable devices, and the reason when it is 0.
int device_count(std::string* reason);

// Blocks of a launch at most; more items are reached by a stride. Setting it is for tests that results do not depend on
// it; 0 restores it.
int64_t grid_limit();
void set_grid_limit(int64_t blocks);

}  // namespace cuda
}  // namespace curbench
