// e^x and log x in double and e^x - 1 in float from +, -, *, / and integer shifts only, fused where it says so: every
// processor gives the same bits.
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

  const double shifted = __builtin_fma(x, kLog2e, kRound);
  const double k = shifted - kRound;
  const double r = __builtin_fma(-k, kLn2Low, __builtin_fma(-k, kLn2High, x));  // |r| <= ln 2 / 2

  // e^r = 1 + r + r^2 q: a Chebyshev interpolant of degree 9, which is off by 2e-17 of e^r. Pairs first (Estrin): a chain
  // of ten steps would wait for itself.
  const double r2 = r * r, r4 = r2 * r2;
  const double a = __builtin_fma(r2, __builtin_fma(r, 0x1.11111111109b5p-7, 0x1.5555555553d68p-5),
                                 __builtin_fma(r, 0x1.5555555555556p-3, 0x1.0000000000001p-1));
  const double b = __builtin_fma(r2, __builtin_fma(r, 0x1.71de0db2eb873p-19, 0x1.a019b914881bap-16),
                                 __builtin_fma(r, 0x1.a01a01a7c2f2cp-13, 0x1.6c16c17889f3cp-10));
  const double c = __builtin_fma(r, 0x1.af389eea54156p-26, 0x1.28917c9f3a495p-22);
  const double q = __builtin_fma(r4, __builtin_fma(r4, c, b), a);
  const double p = 1.0 + __builtin_fma(r2, q, r);

  const double scaled = from_bits(bits_of(p) + (bits_of(shifted) << 52));  // p * 2^k, by adding k to the exponent
  const double high = x > 709.782712893384 ? from_bits(0x7FF0000000000000u) : scaled;
  const double value = x < -708.0 ? 0.0 : high;
  return x != x ? x : value;
}

// Within 2 ulp of log x, near 1 too, for normal x > 0; from + - * / only, as above.
CURBENCH_HD double natural_log(double x) {
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr uint64_t kRootHalf = 0x3FE6A09E667F3BCDu;  // sqrt(1/2): x = 2^k m, m in [sqrt(1/2), sqrt(2))

  const uint64_t raised = bits_of(x) - kRootHalf;
  const double k = static_cast<double>(static_cast<int64_t>(raised) >> 52);
  const double f = from_bits((raised & 0xFFFFFFFFFFFFFu) + kRootHalf) - 1.0;
  const double s = f / (2.0 + f);  // log m = 2 atanh s, |s| <= 0.172: what the series leaves out is under 1e-19
  const double z = s * s;

  // atanh s = s + s z (1/3 + z/5 + ... + z^10/23), pairs first
  const double z2 = z * z, z4 = z2 * z2;
  const double a = (1.0 / 3 + z * (1.0 / 5)) + z2 * (1.0 / 7 + z * (1.0 / 9));
  const double b = (1.0 / 11 + z * (1.0 / 13)) + z2 * (1.0 / 15 + z * (1.0 / 17));
  const double c = (1.0 / 19 + z * (1.0 / 21)) + z2 * (1.0 / 23);
  const double p = a + z4 * (b + z4 * c);
  // 2 s = f - s f, and f is exact.
  return k * kLn2High + (f - (s * (f - 2.0 * (z * p)) - k * kLn2Low));
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

CURBENCH_HD float widen(float x) { return x; }

CURBENCH_HD float widen(uint16_t bfloat16) { return from_bits(static_cast<uint32_t>(bfloat16) << 16); }

// Within 2 ulp of e^x - 1, near 0 too, and exactly 0 at 0. -1 below -88; inf or NaN above 88.7, where e^x leaves float;
// NaN for NaN. Fused where it says so, which every processor rounds alike.
CURBENCH_HD float exponential_minus_one(float x) {
  constexpr float kLog2e = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // as above
  constexpr float kRound = 0x1.8p+23f;

  x = 89.0f < x ? 89.0f : x;  // scale is inf here
  x = -88.0f > x ? -88.0f : x;  // and 0 here
  const float shifted = __builtin_fmaf(x, kLog2e, kRound);
  const float k = shifted - kRound;
  const float r = __builtin_fmaf(k, -kLn2Low, __builtin_fmaf(k, -kLn2High, x));  // |r| <= ln 2 / 2: what the
                                                                                 // series leaves out is under 6e-9
  float p = __builtin_fmaf(r, 1.0f / 5040, 1.0f / 720);
  p = __builtin_fmaf(p, r, 1.0f / 120);
  p = __builtin_fmaf(p, r, 1.0f / 24);
  p = __builtin_fmaf(p, r, 1.0f / 6);
  p = __builtin_fmaf(p, r, 0.5f);
  const float growth = __builtin_fmaf(r * r, p, r);

  const float scale = from_bits(bits_of(1.0f) + (bits_of(shifted) << 23));  // 2^k
  return __builtin_fmaf(growth, scale, scale - 1.0f);
}

}  // namespace curbench
