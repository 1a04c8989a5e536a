#include "call.h"

#include <cstring>
#include <utility>

namespace sscc::rt {
namespace {

using Operands = CollectiveCall::Operands;

// Each operand in `parts` parts of equal size: part 0 of all of them, part 1 of all of them, ...
void pack(const std::vector<Operands>& operands, size_t parts, std::vector<std::byte>& to) {
  to.clear();
  for (size_t p = 0; p < parts; ++p)
    for (const Operands& each : operands) {
      const size_t part = each.in_bytes / parts;
      const auto* from = static_cast<const std::byte*>(each.in) + p * part;
      to.insert(to.end(), from, from + part);
    }
}

void unpack(const std::vector<Operands>& operands, size_t parts, const std::vector<std::byte>& from) {
  const std::byte* at = from.data();
  for (size_t p = 0; p < parts; ++p)
    for (const Operands& each : operands) {
      const size_t part = each.out_bytes / parts;
      if (part > 0) std::memcpy(static_cast<std::byte*>(each.out) + p * part, at, part);
      at += part;
    }
}

}  // namespace

void CollectiveCall::add(const Terms& terms, const Operands& operands) {
  if (operands_.empty()) terms_ = terms;
  operands_.push_back(operands);
}

void CollectiveCall::run(DataPlane& data) {
  const std::vector<Operands> operands = std::exchange(operands_, {});
  const size_t members = terms_.group.size();
  const size_t given = terms_.kind == Kind::reduce_scatter || terms_.kind == Kind::all_to_all ? members : 1;
  const size_t received = terms_.kind == Kind::all_gather || terms_.kind == Kind::all_to_all ? members : 1;
  pack(operands, given, packed_);
  if (terms_.kind == Kind::all_reduce) {
    exchange(data, packed_.data(), packed_.data(), packed_.size());
    return unpack(operands, received, packed_);
  }
  result_.resize(packed_.size() / given * received);
  exchange(data, result_.data(), packed_.data(), packed_.size());
  unpack(operands, received, result_);
}

void CollectiveCall::exchange(DataPlane& data, std::byte* out, const std::byte* in, size_t in_bytes) const {
  const auto& [kind, group, dtype, join, tag] = terms_;
  const size_t elements = in_bytes / size_of(dtype);
  switch (kind) {
    case Kind::all_reduce: return data.all_reduce(group, out, static_cast<int64_t>(elements), dtype, join, tag);
    case Kind::all_gather: return data.all_gather(group, out, in, in_bytes, tag);
    case Kind::reduce_scatter: return data.reduce_scatter(group, out, in, static_cast<int64_t>(elements / group.size()), dtype, join, tag);
    case Kind::all_to_all: return data.all_to_all(group, out, in, in_bytes / group.size(), tag);
  }
}

}  // namespace sscc::rt
