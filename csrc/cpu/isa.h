// Which instructions the CPU's hot loops use. Every choice gives the same bits: nothing is reassociated, and
// products are fused with sums only where the source says so.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CURBENCH_X86 1
#define CURBENCH_AVX2 "avx2,fma"
#define CURBENCH_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma"
#endif

namespace curbench::cpu {

enum class Isa : int { kPortable, kAvx2, kAvx512 };

// The widest that this processor has, unless use_isa chose another.
Isa isa();

// False if this processor does not have it.
bool use_isa(Isa choice);

}  // namespace curbench::cpu
