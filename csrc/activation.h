// Activations in float, from + - * / and fused multiply-add only: every processor gives the same bits.
#pragma once

#include "exponential.h"

namespace curbench {

// x Phi(x), Phi the normal distribution function, within 2.1e-7 and the rounding of the result.
//
// With t = |x| it is max(x, 0) - t Phi(-t), and Phi(-t) on [0, 6] is a Chebyshev interpolant of degree 18, in powers of
// t / 3 - 1; beyond, t Phi(-t) is under 6e-9 and left out.
CURBENCH_HD float gelu(float x) {
  const float t = x < 0.0f ? -x : x;
  const float s = __builtin_fmaf(t < 6.0f ? t : 6.0f, 1.0f / 3.0f, -1.0f);
  float p = -0x1.4ff262p-8f;
  p = __builtin_fmaf(p, s, 0x1.73422ep-9f);
  p = __builtin_fmaf(p, s, 0x1.f9119ep-6f);
  p = __builtin_fmaf(p, s, -0x1.bd2c90p-6f);
  p = __builtin_fmaf(p, s, -0x1.29d470p-4f);
  p = __builtin_fmaf(p, s, 0x1.b2a064p-4f);
  p = __builtin_fmaf(p, s, 0x1.a7de6ap-5f);
  p = __builtin_fmaf(p, s, -0x1.9f6660p-3f);
  p = __builtin_fmaf(p, s, 0x1.ed2ea6p-4f);
  p = __builtin_fmaf(p, s, 0x1.0955e4p-3f);
  p = __builtin_fmaf(p, s, -0x1.254b98p-2f);
  p = __builtin_fmaf(p, s, 0x1.77b3eap-3f);
  p = __builtin_fmaf(p, s, 0x1.4b4512p-4f);
  p = __builtin_fmaf(p, s, -0x1.138e12p-2f);
  p = __builtin_fmaf(p, s, 0x1.13b0b2p-2f);
  p = __builtin_fmaf(p, s, -0x1.46c450p-3f);
  p = __builtin_fmaf(p, s, 0x1.ea20b8p-5f);
  p = __builtin_fmaf(p, s, -0x1.b3aa12p-7f);
  p = __builtin_fmaf(p, s, 0x1.61de20p-10f);
  const float tail = t > 6.0f ? 0.0f : p;
  const float positive = x > 0.0f ? x : 0.0f;
  return x - x == 0.0f ? __builtin_fmaf(-t, tail, positive) : x;  // inf and NaN stay, for the score to show
}

// x / (1 + exp(-2 y)), y = sqrt(2 / pi) (x + 0.044715 x^3): the approximation of GELU by tanh.
CURBENCH_HD float gelu_tanh(float x) {
  const float inner = __builtin_fmaf(0.044715f * x, x * x, x);
  return x / (2.0f + exponential_minus_one(-1.5957691216057308f * inner));
}

}  // namespace curbench
