// A sum or a gather as messages that go round the ring of its devices (the plan's lowering `ring`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compiler/ir/module.h"

namespace sscc {

// `call`: an all_reduce, all_gather or reduce_scatter. Messages that leave on its devices what it leaves; nothing, and why, if there are none.
std::optional<std::vector<Delivery>> ring_of(const Delivery& call, std::string& why_not);

}  // namespace sscc
