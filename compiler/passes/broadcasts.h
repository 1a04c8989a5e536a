// Values that several devices need as broadcasts (the plan's lowering `broadcast`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "compiler/passes/cover.h"
#include "compiler/passes/meetings.h"

namespace sscc {

// `wanted`: deliveries of one tensor in one segment. Broadcasts that leave the same regions on the same devices; nothing, and why, if there are none.
std::optional<std::vector<Delivery>> broadcasts_of(const Meetings& meetings, const std::vector<const Delivery*>& wanted,
                                                   const std::vector<Source>& sources, std::string& why_not);

}  // namespace sscc
