#include "call.h"

#include <cstring>
#include <utility>

namespace sscc::rt {
namespace {

using Kind = CollectiveKind;

size_t bytes_of(const Tensor& tensor) { return static_cast<size_t>(tensor.elements()) * size_of(tensor.dtype); }

}  // namespace

void CollectiveCall::add(const Terms& terms, const Operands& operands) {
  if (operands_.empty()) terms_ = terms;
  operands_.push_back(operands);
}

void CollectiveCall::run(Transport& transport) {
  const std::vector<Operands> operands = std::exchange(operands_, {});
  if (operands.size() == 1) {
    const auto& [out, in] = operands[0];
    dtype_ = in.dtype;
    return exchange(transport, static_cast<std::byte*>(out.data), static_cast<const std::byte*>(in.data), bytes_of(in));
  }
  const size_t members = terms_.group.size();
  const size_t given = terms_.kind == Kind::reduce_scatter || terms_.kind == Kind::all_to_all ? members : 1;
  const size_t received = terms_.kind == Kind::all_gather || terms_.kind == Kind::all_to_all ? members : 1;
  dtype_ = operands[0].in.dtype;
  pack(operands, given, packed_);
  if (terms_.kind == Kind::all_reduce) {
    exchange(transport, packed_.data(), packed_.data(), packed_.size());
    return unpack(operands, received, packed_);
  }
  result_.resize(packed_.size() / given * received);
  exchange(transport, result_.data(), packed_.data(), packed_.size());
  unpack(operands, received, result_);
}

void CollectiveCall::pack(const std::vector<Operands>& operands, size_t parts, std::vector<std::byte>& to) {
  to.clear();
  for (size_t p = 0; p < parts; ++p)
    for (const Operands& each : operands) {
      const size_t part = bytes_of(each.in) / parts;
      const auto* from = static_cast<const std::byte*>(each.in.data) + p * part;
      to.insert(to.end(), from, from + part);
    }
}

void CollectiveCall::unpack(const std::vector<Operands>& operands, size_t parts, const std::vector<std::byte>& from) {
  const std::byte* at = from.data();
  for (size_t p = 0; p < parts; ++p)
    for (const Operands& each : operands) {
      const size_t part = bytes_of(each.out) / parts;
      std::memcpy(static_cast<std::byte*>(each.out.data) + p * part, at, part);
      at += part;
    }
}

void CollectiveCall::exchange(Transport& transport, std::byte* out, const std::byte* in, size_t in_bytes) const {
  const auto& [kind, group, join, tag] = terms_;
  const size_t elements = in_bytes / size_of(dtype_);
  switch (kind) {
    case Kind::all_reduce: return transport.all_reduce(group, out, static_cast<int64_t>(elements), dtype_, join, tag);
    case Kind::all_gather: return transport.all_gather(group, out, in, in_bytes, tag);
    case Kind::reduce_scatter: return transport.reduce_scatter(group, out, in, static_cast<int64_t>(elements / group.size()), dtype_, join, tag);
    case Kind::all_to_all: return transport.all_to_all(group, out, in, in_bytes / group.size(), tag);
  }
}

}  // namespace sscc::rt
