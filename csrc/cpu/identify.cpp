#include "../identify.h"

#include <cstring>

namespace curbench {

Identified identify_words(const int64_t* id, int64_t slots) {
  return identify(
      slots, [=](int64_t i) { return mix(static_cast<uint64_t>(id[i])); }, [](int64_t, int64_t) { return true; },
      [=](int64_t i) { return id[i] == id[i - 1]; });
}

Identified identify_bytes(const char* id, int64_t width, int64_t slots) {
  const auto hash = [=](int64_t i) {
    const char* row = id + i * width;
    uint64_t state = static_cast<uint64_t>(width), word = 0;
    const auto absorb = [&] {
      state = (state ^ word) * 0x9E3779B97F4A7C15u;
      state ^= state >> 29;
    };
    int64_t at = 0;
    for (; at + 8 <= width; at += 8) {
      std::memcpy(&word, row + at, 8);
      absorb();
    }
    word = 0;
    std::memcpy(&word, row + at, width - at);
    absorb();
    return mix(state);
  };
  const auto same = [=](int64_t i, int64_t j) { return std::memcmp(id + i * width, id + j * width, width) == 0; };
  return identify(slots, hash, same, [=](int64_t i) { return same(i, i - 1); });
}

}  // namespace curbench
