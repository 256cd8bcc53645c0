// Compiles the file CURBENCH_EACH_ISA for every instruction set but the portable one, in a namespace of its own, where
// kWidth doubles fill a register. Include what that file needs before this, or it would be compiled for one of them.
#include "isa.h"

#ifdef CURBENCH_X86
#include <immintrin.h>

#define CURBENCH_ISA avx2
#define CURBENCH_WIDTH 4
#pragma GCC push_options
#pragma GCC target(CURBENCH_AVX2)
#include CURBENCH_EACH_ISA
#pragma GCC pop_options
#undef CURBENCH_ISA
#undef CURBENCH_WIDTH

#define CURBENCH_ISA avx512
#define CURBENCH_WIDTH 8
#pragma GCC push_options
#pragma GCC target(CURBENCH_AVX512)
#include CURBENCH_EACH_ISA
#pragma GCC pop_options
#undef CURBENCH_ISA
#undef CURBENCH_WIDTH
#endif

#undef CURBENCH_EACH_ISA
