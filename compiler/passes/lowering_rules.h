// The plan's `communication`: which of its rules says how a delivery travels.
//
// A rule's words, for a delivery of a tensor:
//   tensor   the tensor's name; that of the parameter whose gradient, or new value, it is
//   phase    of the operators that make it; of a stored parameter, of the operator that reads it
//   over     its devices, givers and receivers, differ in a coordinate of this mesh axis; "stages": it goes from one stage to another
//   from     all who give run this stage, or are at this place
//   to       all who receive, likewise
#pragma once

#include <vector>

#include "compiler/ir/module.h"
#include "compiler/passes/meetings.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

class LoweringRules {
 public:
  LoweringRules(const Module& module, const Meetings& meetings, const std::vector<CommunicationRule>& rules);

  // The last rule that matches, by number; -1: none. Of deliveries as `materialize` leaves them.
  int rule_of(const Delivery& delivery);
  // Errors: rules that no delivery has matched.
  void report_unmatched(Diagnostics& diagnostics) const;

 private:
  using Stages = std::vector<int>;  // ascending

  bool matches(const CommunicationRule& rule, const Delivery& delivery) const;
  bool has_name(const CommunicationRule& rule, TensorId tensor) const;
  bool is_in_phase(const CommunicationRule& rule, const Delivery& delivery) const;
  bool is_over(const std::string& axis, const Delivery& delivery) const;
  bool goes_between_stages(const Delivery& delivery) const;
  bool is_from(const CommunicationRule::End& end, const Delivery& delivery) const;
  bool is_to(const CommunicationRule::End& end, const Delivery& delivery) const;
  bool is_at(const Place& place, int32_t device) const;
  Stages stages_of_giver(const Message& message) const;
  Stages stages_of_receiver(const Delivery& delivery, int32_t device) const;
  std::string nearest(const CommunicationRule& rule) const;

  int stage_of_segment(int segment) const { return module_.segments[static_cast<size_t>(segment)].stage; }

  const Module& module_;
  const Meetings& meetings_;
  const std::vector<CommunicationRule>& rules_;
  std::vector<char> matched_;   // by rule
  std::vector<Stages> stages_;  // by device: those that it runs
};

}  // namespace sscc
