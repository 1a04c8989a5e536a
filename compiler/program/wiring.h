// Who talks to whom: the groups and pairs of ranks that programs communicate over, numbered, so that a walk can match both ends of a transfer.
//
// Large machines run few distinct programs. Ranks that run one body and whose groups and peers are, again, such ranks cannot be told apart by when
// they do what: one of them stands for its class. `folded` finds these classes; what holds for the representatives' walk (it runs through; the time
// that it takes) then holds for all ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "compiler/program/program.h"

namespace sscc {

struct Wiring {
  std::vector<int32_t> representative;        // by rank: the rank that stands for it, itself where all ranks are walked
  std::vector<std::vector<int32_t>> group;    // by rank and index of Constants::groups: a number, the same for all members
  std::vector<std::vector<int32_t>> channel;  // by rank and index of Constants::peers: a number, the same for both ends
  std::vector<std::vector<int32_t>> members;  // by number of a group: the ranks that are walked, in group order
};

// All ranks for themselves.
Wiring wiring_of(const Programs& programs);

// One rank for each class; nothing where classes cannot be told apart soundly (two groups of a rank that look alike from outside).
std::optional<Wiring> folded(const Programs& programs);

}  // namespace sscc
