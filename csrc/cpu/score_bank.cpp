#include "../score_bank.h"

#include <omp.h>

#include <cstring>

#include "isa.h"
#include "launch.h"
#include "race.h"

namespace curbench::cpu {
namespace {

constexpr int64_t kPart = 192;         // rows scored at once: whole tiles of the race, whole groups of an MLP head
constexpr int64_t kAheadBytes = 16384;  // from a row being read to one being fetched
constexpr int64_t kMostAhead = 64;      // rows
constexpr int kLowBits = 15;  // an int8 head is high * 2^15 + low

constexpr int kTileRows = 6;
constexpr int kGroup = 8 * kTileRows;  // rows that an MLP head takes at a time

// A head as the loops want it, padded with zeros to whole rounds or panels.
struct Head {
  Dtype dtype;
  int64_t features;
  const float* weight;  // of all entries; of the first of each pair; of the hidden units
  const float* second;  // of the second of each pair
  const int16_t* high;  // of an int8 bank
  const int16_t* low;
  int64_t hidden;           // padded
  Activation activation;
  const float* layer_bias;
  const float* panel;       // [hidden / panel][features][panel]
  const uint32_t* pairs;    // the same for pairs of features, as bfloat16; null where nothing multiplies them
};

constexpr int64_t kBeyond = 16 + kMostAhead;

struct Rows {
  const void* const* row;  // [n + kBeyond]: others may be read after the first n, for nothing
  int64_t ahead;           // rows, to the one to be fetched; 0 when they follow each other in memory
  const float* scale;      // [n] of int8 rows, or null
  int64_t n;
  float* scratch;  // [kGroup * features] for an MLP head
};

struct Loops {
  // Outputs of the head, with room for 16 more; those of int8 rows and a linear head in units.
  void (*linear[3])(const Head& head, const Rows& rows, double* out);  // by Dtype
  void (*mlp)(const Head& head, const Rows& rows, double* out);
  // Scores from these outputs, as score_of. Returns how many are not finite.
  int64_t (*finish)(const ScoreBank& a, const double* dot, const float* scale, const float* prior, int64_t n,
                    float* score);
  // Adds the masses of a block to sum[2][kDigitSize].
  void (*digits)(const Digit& digit, const float* score, int64_t n, double top, double scale, uint64_t* sum);
  int64_t panel;  // hidden units side by side
};

}  // namespace
}  // namespace curbench::cpu

#define CURBENCH_EACH_ISA "bank.inc"
#include "each_isa.h"

namespace curbench::cpu {
namespace {

#ifdef CURBENCH_X86
const Loops& loops() { return isa() == Isa::kAvx512 ? avx512::loops : avx2::loops; }

bool multiplies_pairs() {
  return isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
}

class PaddedHead {
 public:
  explicit PaddedHead(const ScoreBank& a) : head_{} {
    head_.dtype = a.dtype;
    head_.features = a.features;
    if (a.hidden > 0)
      pack_mlp(a);
    else if (a.dtype == Dtype::kInt8)
      pack_fixed(a);
    else
      pack_linear(a);
  }

  const Head& get() const { return head_; }

 private:
  void pack_linear(const ScoreBank& a) {
    const int64_t padded = ceil_div(a.features, 2 * kLanes) * 2 * kLanes;
    const int64_t pairs = a.dtype == Dtype::kBfloat16 ? 2 : 1;
    weight_.resize(padded);
    for (int64_t f = 0; f < a.features; ++f) weight_[f % pairs * (padded / 2) + f / pairs] = a.weight[f];
    head_.weight = weight_.data();
    head_.second = weight_.data() + padded / 2;
  }

  void pack_fixed(const ScoreBank& a) {
    const int64_t padded = ceil_div(a.features, 2 * kLanes) * 2 * kLanes;
    fixed_.resize(2 * padded);
    for (int64_t f = 0; f < a.features; ++f) {
      const int32_t high = (a.fixed[f] + (1 << (kLowBits - 1))) >> kLowBits;
      fixed_[f] = static_cast<int16_t>(high);
      fixed_[padded + f] = static_cast<int16_t>(a.fixed[f] - high * (1 << kLowBits));
    }
    head_.high = fixed_.data();
    head_.low = fixed_.data() + padded;
  }

  void pack_mlp(const ScoreBank& a) {
    const int64_t panel = loops().panel, hidden = ceil_div(a.hidden, panel) * panel, features = a.features;
    const bool pairs = a.dtype == Dtype::kBfloat16 && multiplies_pairs();
    weight_.resize(2 * hidden + (pairs ? 0 : hidden * features));
    std::copy_n(a.weight, a.hidden, weight_.begin());
    std::copy_n(a.layer_bias, a.hidden, weight_.begin() + hidden);
    if (pairs) pair_.resize(hidden * ceil_div(features, 2));
    for (int64_t f = 0; f < features; ++f)
      for (int64_t j = 0; j < a.hidden; ++j) {
        const float entry = a.layer[f * a.hidden + j];
        const int64_t first = j / panel * panel, own = j - first;
        if (pairs)
          pair_[first * ceil_div(features, 2) + f / 2 * panel + own] |= bits_of(entry) >> 16 << (f % 2 * 16);
        else
          weight_[2 * hidden + first * features + f * panel + own] = entry;
      }
    head_.weight = weight_.data();
    head_.hidden = hidden;
    head_.activation = a.activation;
    head_.layer_bias = weight_.data() + hidden;
    head_.panel = weight_.data() + 2 * hidden;
    head_.pairs = pairs ? pair_.data() : nullptr;
  }

  std::vector<float> weight_;
  std::vector<int16_t> fixed_;
  std::vector<uint32_t> pair_;
  Head head_;
};

// Rows, block by block: scored, summed and sent into the race while they are in the cache.
struct WideBack {
  Launch launch;

  void score(const Bank& bank, RaceLists* lists) const {
    const PaddedHead head(bank.a);
    const int64_t scratch = bank.a.hidden > 0 ? kGroup * bank.a.features : 0;
    std::vector<float> widened(scratch * launch.threads);
    each_block(bank, lists, [&](int64_t first, int64_t n) {
      score_rows(bank.a, head.get(), first, n, widened.data() + scratch * omp_get_thread_num());
    });
  }

  void sum(const Bank& bank, RaceLists* lists) const {
    each_block(bank, lists, [](int64_t, int64_t) {});
  }

  // Fills the scores of rows in parts, and in between, part by part, sums the block before and sends it into the race:
  // memory then brings the next rows meanwhile. Blocks in runs, so that a thread reads on where it was.
  template <class Fill>
  void each_block(const Bank& bank, RaceLists* lists, const Fill& fill) const {
    constexpr int64_t kRun = 32;
    const ScoreBank& a = bank.a;
    const Race race = {a.seed, a.step, a.floor, 0, a.candidate};
    const int64_t blocks = bank.weight.blocks;
    std::vector<RaceLists> own(launch.threads, lists == nullptr ? RaceLists(1, 0) : *lists);
#pragma omp parallel for num_threads(launch.threads) schedule(dynamic) if (launch.threads > 1)
    for (int64_t run = 0; run < blocks; run += kRun) {
      const int64_t end = std::min(run + kRun, blocks);
      for (int64_t t = run; t <= end; ++t) {
        const int64_t before = (t - 1) * kBlock;
        double top = 0.0, sum[kLanes] = {}, weight[kPart];
        if (t > run) top = largest(bank.score + before, block_length(a.rows, t - 1));
        for (int64_t part = 0; part < kBlock; part += kPart) {
          if (t < end) {
            const int64_t left = block_length(a.rows, t) - part;
            if (left > 0) fill(t * kBlock + part, std::min(kPart, left));
          }
          if (t > run) {
            const int64_t n = std::min(kPart, block_length(a.rows, t - 1) - part);
            if (n <= 0) continue;
            const float* score = bank.score + before + part;
            exponentials(score, n, top > -HUGE_VAL ? top : 0.0, weight, sum);  // a block of -inf has no weight
            if (lists != nullptr) race.enter(own[omp_get_thread_num()], score, weight, top, before + part, n);
          }
        }
        if (t == run) continue;
        bank.block_top[t - 1] = top;
        bank.block_sum[t - 1] = tree<kLanes>(sum, [](double x, double y) { return x + y; });
      }
    }
    if (lists != nullptr)
      for (const RaceLists& one : own) lists->add(one);
  }

  static void score_rows(const ScoreBank& a, const Head& head, int64_t first, int64_t n, float* scratch) {
    static constexpr int64_t kSize[] = {4, 2, 1};
    const int64_t stride = a.stride * kSize[static_cast<int>(a.dtype)];
    const char* base = static_cast<const char*>(a.feature);
    const int64_t ahead = std::min(kMostAhead, kAheadBytes / std::max<int64_t>(1, stride) + 4);
    const void* row[kPart + kBeyond];
    float own_scale[kPart], own_prior[kPart];
    const float* scale = a.row_scale == nullptr ? nullptr : a.row_scale + first;
    const float* prior = a.prior == nullptr ? nullptr : a.prior + first;
    const int64_t readable = std::min(n + kBeyond, a.rows - first);
    if (a.candidate == nullptr) {
      for (int64_t i = 0; i < readable; ++i) row[i] = base + (first + i) * stride;
    } else {
      for (int64_t i = 0; i < readable; ++i) {
        const int64_t problem = a.candidate[first + i];
        const bool inside = 0 <= problem && problem < a.problems;
        if (!inside && i < n) report(a.fault, first + i);
        row[i] = base + (inside ? problem * stride : 0);
        if (i >= n) continue;
        if (scale != nullptr) own_scale[i] = inside ? a.row_scale[problem] : 0.0f;
        if (prior != nullptr) own_prior[i] = inside ? a.prior[problem] : 0.0f;
      }
      if (scale != nullptr) scale = own_scale;
      if (prior != nullptr) prior = own_prior;
    }
    for (int64_t i = readable; i < n + kBeyond; ++i) row[i] = row[readable - 1];

    double out[kPart + 16];
    const auto dots = a.hidden > 0 ? loops().mlp : loops().linear[static_cast<int>(a.dtype)];
    dots(head, {row, a.candidate == nullptr ? 0 : ahead, scale, n, scratch}, out);
    float* score = a.score + first;
    if (loops().finish(a, out, scale, prior, n, score) == 0) return;
    for (int64_t i = 0; i < n; ++i)
      if (!finite(score[i])) return report(a.fault + 1, first + i);
  }

  // Every thread sums in digits of its own, and neighbours in different ones, so that few additions wait for the one
  // before; whole numbers add up in any order.
  void sum_digits(const Bank& bank, const Digit& digit, double top, double scale, uint64_t* mass) const {
    const ScoreBank& a = bank.a;
    std::vector<uint64_t> own(int64_t{2} * kDigitSize * launch.threads);
#pragma omp parallel for num_threads(launch.threads) schedule(dynamic, 16) if (launch.threads > 1)
    for (int64_t t = 0; t < bank.weight.blocks; ++t)
      loops().digits(digit, a.score + t * kBlock, block_length(a.rows, t), top, scale,
                     own.data() + int64_t{2} * kDigitSize * omp_get_thread_num());
    std::fill_n(mass, kDigitSize, 0);
    for (size_t i = 0; i < own.size(); ++i) mass[i % kDigitSize] += own[i];
  }
};

#endif

}  // namespace

BankTotals score_bank(const ScoreBank& args, int threads) {
  const Launch launch{threads};
#ifdef CURBENCH_X86
  if (isa() != Isa::kPortable) return curbench::score_bank(WideBack{launch}, args);
#endif
  return curbench::score_bank(PlainBack<Launch>{launch}, args);
}

}  // namespace curbench::cpu

namespace curbench {

int64_t score_bank_workspace(int64_t rows, int64_t count) { return bank_workspace(rows, count); }

}  // namespace curbench
