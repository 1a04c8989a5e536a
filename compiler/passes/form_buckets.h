// Collectives that run once a step, each of one tensor, become few calls of many tensors (used by form_collectives, as its last act).
//
//   all_reduce of grad(w) before its norm, all_reduce of grad(b) before its norm    ->    one call of both, before either is needed
//   all_gather of the new w, all_gather of the new b                                ->    one call of both, where the last of them is made
//
// The same bytes in fewer messages. A bucket holds calls of one kind, group of devices, type, join and segment, none of which depends on another; it is
// full at 25 MiB, the default of PyTorch's DistributedDataParallel (bucket_cap_mb). What is there when the segment begins, as gradients are, goes in the
// order in which it was made, so that the first call can begin while the last gradients are still made: backward begins with the last layers. Lowering
// keeps that order (place_buckets). A bucket that is made in order may have one member.
#pragma once

#include "compiler/ir/module.h"

namespace sscc {

// Sets Delivery::bucket. Deliveries keep their order.
void form_buckets(Module& module);

}  // namespace sscc
