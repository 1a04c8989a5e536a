// Instructions that follow one another and are one call of the runtime: `with_next` of all but the last.
//
//   collectives       of one opcode, group, type and join: a bucket (form_buckets.h)
//   updates           by one rule, with the same scalars
//   sums of squares   into one number
//
// The kernels of a call run at the same time: none touches what another one writes, but for that number.
#pragma once

#include <string>

#include "compiler/program/program.h"

namespace sscc {

// Is an instruction of a segment one call with the one before it?
bool is_with_previous(llvm::ArrayRef<Instruction> segment, size_t index);
// All that are one call with the one at `first`, with which it begins.
llvm::ArrayRef<Instruction> call_at(llvm::ArrayRef<Instruction> segment, size_t first);

// Are two instructions that follow one another of a kind that can be one call, whatever memory they touch?
bool may_be_one_call(const Body& body, const Instruction& i, const Instruction& next);

// A contraction of a value with itself to one number, f32 or f64.
bool is_sum_of_squares(const Body& body, const Instruction& i);
// Of an update, behind the parameter, the gradient and the moments: what clips, the loss's scale, the steps taken. May be missing from the end.
llvm::ArrayRef<View> scalars_of_update(const Instruction& update);

// The origin of a call, for people: "wte.weight and 51 more".
std::string origin_of(llvm::ArrayRef<Instruction> call);

}  // namespace sscc
