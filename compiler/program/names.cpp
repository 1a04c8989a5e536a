#include "compiler/program/program.h"

namespace sscc {

const char* name_of(Opcode opcode) {
  switch (opcode) {
    case Opcode::contract: return "contract";
    case Opcode::contract_epilogue: return "contract_epilogue";
    case Opcode::pointwise: return "pointwise";
    case Opcode::reduce: return "reduce";
    case Opcode::copy: return "copy";
    case Opcode::fill: return "fill";
    case Opcode::gather: return "gather";
    case Opcode::scatter_add: return "scatter_add";
    case Opcode::softmax: return "softmax";
    case Opcode::softmax_grad: return "softmax_grad";
    case Opcode::attention: return "attention";
    case Opcode::attention_grad: return "attention_grad";
    case Opcode::norm: return "norm";
    case Opcode::norm_grad: return "norm_grad";
    case Opcode::norm_grad_scale: return "norm_grad_scale";
    case Opcode::convolve: return "convolve";
    case Opcode::convolve_transposed: return "convolve_transposed";
    case Opcode::convolve_grad_weight: return "convolve_grad_weight";
    case Opcode::max_pool: return "max_pool";
    case Opcode::max_pool_grad: return "max_pool_grad";
    case Opcode::sum_pool: return "sum_pool";
    case Opcode::sum_pool_grad: return "sum_pool_grad";
    case Opcode::pick: return "pick";
    case Opcode::cross_entropy_grad: return "cross_entropy_grad";
    case Opcode::pad: return "pad";
    case Opcode::update: return "update";
    case Opcode::send: return "send";
    case Opcode::receive: return "receive";
    case Opcode::all_reduce: return "all_reduce";
    case Opcode::all_gather: return "all_gather";
    case Opcode::reduce_scatter: return "reduce_scatter";
    case Opcode::broadcast: return "broadcast";
    case Opcode::all_to_all: return "all_to_all";
    case Opcode::capture: return "capture";
  }
  return "";
}

}  // namespace sscc
