// The importers of ONNX types; importers.def maps types to them.
#pragma once

#include "compiler/frontend/importer.h"

namespace sscc::importers {

// import_math.cpp
void unary(Node& n, Scalar f);
void binary(Node& n, Scalar f);
void variadic(Node& n, Scalar f);
void where(Node& n);
void leaky_relu(Node& n);
void identity(Node& n);
void clip(Node& n);
void cast(Node& n);
void gelu(Node& n);
void dropout(Node& n);
void matmul(Node& n);
void gemm(Node& n);
void einsum(Node& n);
void reduce(Node& n, Join join, bool mean);
void arg_extreme(Node& n, Join extreme);
void softmax(Node& n);
void log_softmax(Node& n);
void cross_entropy(Node& n);
void check_labels(Node& n, TensorId a, const std::string& lhs, TensorId b, const std::string& rhs);

// import_norm.cpp
void layer_norm(Node& n);
void rms_norm(Node& n);
void instance_norm(Node& n);
void group_norm(Node& n);
void batch_norm(Node& n);

// import_layout.cpp
void reshape(Node& n);
void flatten(Node& n);
void squeeze(Node& n);
void unsqueeze(Node& n);
void transpose(Node& n);
void slice(Node& n);
void split(Node& n);
void concat(Node& n);
void expand(Node& n);
void gather(Node& n);
void shape(Node& n);
void constant(Node& n);

// import_windows.cpp
void convolution(Node& n);
void convolution_transposed(Node& n);
void max_pool(Node& n);
void average_pool(Node& n);
void global_pool(Node& n, Join join);

}  // namespace sscc::importers
