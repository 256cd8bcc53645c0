// e^x in double and e^x - 1 in float from +, -, * and integer shifts only: every processor gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "check.h"

namespace curbench {

CURBENCH_HD uint64_t bits_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

CURBENCH_HD double from_bits(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Relative error under 2^-52. Zero below x = -708, where the true value is under 1e-307; inf above 709.78; NaN for NaN.
CURBENCH_HD double exponential(double x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;  // kLn2High * k is exact
  constexpr double kRound = 0x1.8p+52;  // adding it leaves the nearest integer in the low bits of the sum

  const double shifted = x * kLog2e + kRound;
  const double k = shifted - kRound;
  const double r = (x - k * kLn2High) - k * kLn2Low;  // |r| <= ln 2 / 2: the Taylor remainder is under 5e-18

  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;

  const double scaled = from_bits(bits_of(p) + (bits_of(shifted) << 52));  // p * 2^k, by adding k to the exponent
  const double high = x > 709.782712893384 ? from_bits(0x7FF0000000000000u) : scaled;
  const double value = x < -708.0 ? 0.0 : high;
  return x != x ? x : value;
}

CURBENCH_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

CURBENCH_HD float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Within 2 ulp of e^x - 1, near 0 too, and exactly 0 at 0. -1 below x = -87; inf above 88; NaN for NaN.
CURBENCH_HD float exponential_minus_one(float x) {
  constexpr float kLog2e = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // as above
  constexpr float kRound = 0x1.8p+23f;

  const float shifted = x * kLog2e + kRound;
  const float k = shifted - kRound;
  const float r = (x - k * kLn2High) - k * kLn2Low;  // |r| <= ln 2 / 2: the Taylor remainder is under 6e-9

  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  const float growth = r + r * r * p;

  const float scale = from_bits(bits_of(1.0f) + (bits_of(shifted) << 23));  // 2^k
  const float scaled = growth * scale + (scale - 1.0f);
  const float high = x > 88.0f ? from_bits(0x7F800000u) : scaled;
  return x < -87.0f ? -1.0f : high;
}

}  // namespace curbench
