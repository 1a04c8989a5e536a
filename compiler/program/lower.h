// From the module to one program for each rank.
//
// Every device's pieces and deliveries are laid out in one global order (the module's), each in its segment; ranks whose programs differ in
// constants only share a body. No compute operator is added, split, moved or reordered here: what appears are copies where a strided view
// cannot serve, zeros before sums over micro-batches, and captures for the host.
#pragma once

#include "compiler/program/program.h"

namespace sscc {

Programs lower(const Module& module);

// Attention, and its gradient, become one instruction each; the scores never reach memory. What a plan's `before` names stays an instruction of its own.
void fuse_attention(const Module& module, Programs& programs);

// Pointwise instructions that follow one another over the same elements become one; values that nobody else reads never reach memory.
void fuse(Programs& programs);

// What follows a product alone, element by element, is done with it. What a plan's `before` names stays an instruction of its own.
void fuse_epilogues(const Module& module, Programs& programs);

// Moves receives to where no order of sends and receives, and no library that makes a sender wait for its receiver, can bring ranks to a halt.
void order_transfers(Programs& programs);

// Moves collectives of what lies ready before their slot one use ahead, so that they run beside the kernels of what was brought before.
void prefetch(Programs& programs);

// Life, copies and arena offset of every buffer; the size of the arena.
void plan_buffers(Programs& programs);

// A stream for every instruction, and what each has to wait for on other streams.
void assign_streams(Programs& programs);

// Updates, and sums of squares, that follow one another become one call: on a GPU one launch and not one for each parameter.
void join_kernels(Programs& programs);

}  // namespace sscc
