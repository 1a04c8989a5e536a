// Programs made by hand, small enough to be read in golden text.
#pragma once

#include "compiler/program/program.h"

namespace sscc::test {

// Two ranks that share a body; two micro-batches. y = x w + broadcast b; loss = sum (y - t)^2 / 8 over x 4x3, t 4x2, w 3x2, b 2; SGD, lr 0.1.
// Micro-batch m is rows [2m, 2m+2), of which rank r has row 2m + r. Gradients and the loss are summed over both ranks by all-reduce.
Programs linear_on_two_ranks();

// A body with one instruction of every opcode (for one rank), whose views are of all kinds. Not meant to be run.
Programs every_opcode();

// Two ranks that share a body: sends, receives and an all-reduce between kernels that touch the same memory, with their streams and waits, and a receive
// in a slot of its own that belongs to the group which ends the slot before; two micro-batches. Not meant to be run.
Programs messages_between_kernels();

}  // namespace sscc::test
