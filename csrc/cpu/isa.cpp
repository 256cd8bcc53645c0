#include "isa.h"

#include <atomic>

namespace curbench::cpu {

static Isa widest() {
#ifdef CURBENCH_X86
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kPortable;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  return Isa::kAvx2;
#else
  return Isa::kPortable;
#endif
}

static std::atomic<Isa>& chosen() {
  static std::atomic<Isa> choice{widest()};
  return choice;
}

Isa isa() { return chosen().load(std::memory_order_relaxed); }

bool use_isa(Isa choice) {
  if (choice > widest()) return false;
  chosen().store(choice, std::memory_order_relaxed);
  return true;
}

}  // namespace curbench::cpu
