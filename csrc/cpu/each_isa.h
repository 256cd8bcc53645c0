// Compiles the file CURBENCH_EACH_ISA for every instruction set but the portable one, in a namespace of its own, where
// kWidth doubles fill a register. Include what that file needs before this, or it would be compiled for one of them.
#include "isa.h"

#ifdef CURBENCH_X86
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms of gcc 12 about its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#define CURBENCH_ISA avx2
#define CURBENCH_WIDTH 4
#pragma GCC push_options
#pragma GCC target("avx2,fma")  // as CURBENCH_AVX2, which is not expanded here
#include CURBENCH_EACH_ISA
#pragma GCC pop_options
#undef CURBENCH_ISA
#undef CURBENCH_WIDTH

#define CURBENCH_ISA avx512
#define CURBENCH_WIDTH 8
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include CURBENCH_EACH_ISA
#pragma GCC pop_options
#undef CURBENCH_ISA
#undef CURBENCH_WIDTH
#endif

#undef CURBENCH_EACH_ISA
