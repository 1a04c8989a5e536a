#include "compiler/passes/cover.h"

#include <map>

namespace sscc {

std::vector<Source> sources_of(const Module& module, TensorId tensor) {
  std::vector<Source> sources;
  const Tensor& t = module.tensors[tensor];
  for (OpId producer : t.producers) {
    const Op& op = module.ops[producer];
    for (size_t o = 0; o < op.outputs.size(); ++o) {
      if (op.outputs[o] != tensor) continue;
      for (size_t p = 0; p < op.pieces.size(); ++p)
        sources.push_back({op.pieces[p].device, producer, static_cast<int32_t>(p),
                           region_of(module, op, static_cast<int>(op.inputs.size() + o), op.pieces[p]),
                           part_of(module, producer, static_cast<int>(o), op.pieces[p])});
    }
  }
  if (auto homes = module.homes.find(tensor); t.producers.empty() && homes != module.homes.end())
    for (const Home& home : homes->second) sources.push_back({home.device, OpId(), 0, home.region, Part()});
  return sources;
}

void take(std::vector<Uncovered>& uncovered, const Source& source, Contributions& taken) {
  std::vector<Uncovered> rest;
  for (Uncovered& u : uncovered) {
    const Region common = intersect(u.region, source.region);
    if (common.empty() || !u.part.contains(source.part)) {
      rest.push_back(std::move(u));
      continue;
    }
    taken.push_back({source.device, source.op, source.piece, common, source.part});
    const Part left = subtract(u.part, source.part);
    if (!left.empty()) rest.push_back({common, left});
    for (Region& outside : subtract(u.region, common)) rest.push_back({std::move(outside), u.part});
  }
  uncovered = std::move(rest);
}

Messages as_messages(llvm::ArrayRef<Contribution> taken, int32_t to) {
  std::map<int32_t, Message> by_device;
  for (const Contribution& c : taken) {
    const auto [it, fresh] = by_device.try_emplace(c.device);
    Message& message = it->second;
    message.from = c.device;
    message.to = to < 0 ? c.device : to;
    message.region = fresh ? c.region : enclose(message.region, c.region);
    message.contributions.push_back(c);
  }
  Messages result;
  for (auto& [device, message] : by_device) result.push_back(std::move(message));
  return result;
}

}  // namespace sscc
