// Numbers equal ids alike, in the order in which they first appear, and lists the slots of each.
#pragma once

#include <cstdint>
#include <vector>

namespace curbench {

struct Identified {
  std::vector<int64_t> first;   // [B], the slot where each id was first seen
  std::vector<int64_t> offset;  // [B + 1], places of the group of each id
  std::vector<int64_t> order;   // [R], the slot of each place; empty when that is the identity
};

// Table of hashes with linear probing, at most half full.
class HashTable {
 public:
  // The number of the entry with this hash for which same(number) holds, or else `next`, which is entered.
  template <class Same>
  int64_t number_of(uint64_t hash, int64_t next, Same same) {
    if (2 * (entered_ + 1) > static_cast<int64_t>(slot_.size())) grow();
    const uint64_t mask = slot_.size() - 1;
    for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
      Slot& slot = slot_[at];
      if (slot.number < 0) {
        slot = {hash, next};
        ++entered_;
        return next;
      }
      if (slot.hash == hash && same(slot.number)) return slot.number;
    }
  }

 private:
  struct Slot {
    uint64_t hash;
    int64_t number;
  };

  void grow() {
    std::vector<Slot> old(slot_.size() * 2, Slot{0, -1});
    old.swap(slot_);
    const uint64_t mask = slot_.size() - 1;
    for (const Slot& entry : old) {
      if (entry.number < 0) continue;
      uint64_t at = entry.hash & mask;
      while (slot_[at].number >= 0) at = (at + 1) & mask;
      slot_[at] = entry;
    }
  }

  std::vector<Slot> slot_ = std::vector<Slot>(1024, Slot{0, -1});
  int64_t entered_ = 0;
};

// A bijection of 64 bits whose low bits depend on all of them: the finaliser of splitmix64 (Steele et al. 2014).
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// hash(i) of every slot, same(i, j) of two slots with one hash, repeats(i) true only if slot i has the id of i - 1.
template <class Hash, class Same, class Repeats>
Identified identify(int64_t slots, Hash hash, Same same, Repeats repeats) {
  Identified result;
  std::vector<int32_t> code(slots);
  std::vector<int64_t>& count = result.offset;
  HashTable table;
  bool sorted = true;
  for (int64_t i = 0; i < slots; ++i) {
    const int64_t next = static_cast<int64_t>(result.first.size());
    if (i > 0 && repeats(i)) {
      code[i] = code[i - 1];
    } else {
      const int64_t found = table.number_of(hash(i), next, [&](int64_t b) { return same(i, result.first[b]); });
      if (found == next) {
        result.first.push_back(i);
        count.push_back(0);
      }
      sorted &= found >= next - 1;  // the last group, or a new one
      code[i] = static_cast<int32_t>(found);
    }
    ++count[code[i]];
  }
  int64_t total = 0;
  for (int64_t& n : count) {
    const int64_t own = n;
    n = total;
    total += own;
  }
  count.push_back(total);
  if (sorted) return result;
  std::vector<int64_t> place(result.offset);
  result.order.resize(slots);
  for (int64_t i = 0; i < slots; ++i) result.order[place[code[i]]++] = i;
  return result;
}

Identified identify_words(const int64_t* id, int64_t slots);

// Ids of `width` bytes each, one after the other.
Identified identify_bytes(const char* id, int64_t width, int64_t slots);

}  // namespace curbench
