// The kernels: one function for each opcode that computes, and sum_of_squares, which contracts values with themselves. Emitted programs and the
// interpreter call the same ones.
//
// All operands are strided views; `accumulate` adds to what the output holds. Floating types f32 and f64 everywhere, and bf16 and f16, which are
// computed in float: with them statistics (mean, rstd, lse, log_sums), losses, and scale and bias of norms are f32, and so may be any sum (of contract,
// reduce, scatter_add) and the rows that gather reads. Integer and boolean types in pointwise, copy, gather indices. Sums are made in an order that
// depends on shapes alone (not on the number of threads), so a run repeats bit by bit. Outputs never overlap inputs, except for pointwise and update,
// where an output may be the very same view as an input.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "sscc_rt/types.h"

namespace sscc::rt {

// out[...] (+)= scale * sum over labels not in out of lhs[...] rhs[...]; labels: one letter a dimension, "bmk,bkn->bmn".
void contract(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const char* equation, double scale, bool accumulate);

// A product, and what happens to it before it is written: value = scale * sum(lhs rhs) + base + bias; out = function(value) for identity, relu and
// gelu_tanh, out = gelu_tanh_grad(before, value). With gelu_tanh `pre` is the value itself (data null: not wanted). base and bias (data null: none)
// broadcast right-aligned against out; pre, before and base are of out's type, bias of the type that it is computed in.
void contract_epilogue(const Tensor& out, const Tensor& pre, const Tensor& lhs, const Tensor& rhs, const Tensor& base, const Tensor& bias,
                       const Tensor& before, const char* equation, double scale, Scalar function);

// outs[i] = value of step results[i]; inputs broadcast right-aligned against outs[0] (all outs have its dims).
void pointwise(std::span<const Tensor> outs, std::span<const Tensor> ins, std::span<const ScalarStep> steps, std::span<const int32_t> results,
               bool accumulate);

// out (+)= scale * join over the dimensions of `in` that are set in the bit mask `reduced`; `out` has the remaining dimensions in order
// (kept ones of length 1 are left out of its view). logsumexp ignores scale.
void reduce(const Tensor& out, const Tensor& in, uint32_t reduced, Join join, double scale, bool accumulate);

// out (+)= the sum of the squares of all elements of all `ins`, of any dims; all of one type, f32 or f64, added up in f64.
void sum_of_squares(const Tensor& out, std::span<const Tensor> ins, bool accumulate);

// Strided copy, equal dims; floats up to f32 are converted. `fill`: a constant.
void copy(const Tensor& out, const Tensor& in, bool accumulate);
void fill(const Tensor& out, double value);

// out[a.., i.., c..] = data[a.., indices[i..] - index_offset, c..] along `dim`; an index outside the piece gives 0 (another rank has
// it). Negative indices count from `length` (of the whole dimension). An index outside [-length, length) is an error.
void gather(const Tensor& out, const Tensor& data, const Tensor& indices, int dim, int64_t index_offset, int64_t length);
// Gradient of gather with respect to data: out = 0 (unless accumulate), then out[.., indices[i..] - index_offset, ..] += dy[.., i.., ..].
void scatter_add(const Tensor& out, const Tensor& indices, const Tensor& dy, int dim, int64_t index_offset, int64_t length, bool accumulate);

// Along `dim`.
void softmax(const Tensor& out, const Tensor& in, int dim);
void softmax_grad(const Tensor& dx, const Tensor& y, const Tensor& dy, int dim);

// How the product of a query and a key becomes the score that softmax reads: s = clamp(masked(scale * q.k), low, high).
//   add: scale * q.k + mask.  replace: mask ? value : scale * q.k.  keep: mask ? scale * q.k : value.
enum class AttentionMask : uint8_t { none, add, replace, keep };
struct AttentionRule {
  double scale = 1;
  AttentionMask mask = AttentionMask::none;
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
};

// out = softmax(scores over the keys) v; log_sums = log of the sum of exp(score) over the keys. The matrix of scores is never in memory.
//
// `equation`: the labels of q, k, v, the scores and out, "abxz,abzy,abyw,abxy->abxw", in any order. What a label is follows from where it stands:
//   keys        k, v and the scores           (y)
//   batch       all five                      (a, b)
//   queries     q, the scores and out         (x; several are walked as one, in the order of the scores: positions, heads that share a key's head)
//   summed      q and k                       (z)
//   values      v and out                     (w)
// Any role may have several labels or none. Any other equation: std::logic_error.
//
// q, k, v and out have one type. `mask` (data null with AttentionMask::none) is broadcast right-aligned against the scores' labels: any float to be
// added, b1 else. `value`: what masked scores are, a scalar of any float (read with replace and keep). log_sums: the scores' labels, f64 for f64, else
// f32, the same for all keys (its stride along keys is taken as 0); data null: not wanted.
//
// A row whose scores are all masked by a finite value is the mean of v; one of -infinity alone is not a number, as that of softmax, with a log_sum of
// -infinity. Keys whose weights are 0 because of their masks may be left out, so that of q, k and v only finite values keep to the definition.
void attention(const Tensor& out, const Tensor& log_sums, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& value,
               const char* equation, const AttentionRule& rule);
// Gradients of sum(out * dout); dq, dk, dv, dout: labels of q, k, v, out. `out` and `log_sums` are what attention gave. Scores that the mask replaces
// pass nothing on to q and k; clamping passes everything.
void attention_grad(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                    const Tensor& log_sums, const Tensor& dout, const Tensor& mask, const Tensor& value, const char* equation,
                    const AttentionRule& rule);

// y = (x - mean) rstd scale + bias, rstd = 1 / sqrt(variance + epsilon), over the dimensions of x in the bit mask `over`. mean and rstd have the other
// dimensions, scale and bias those in the mask `along`, in order. mean with data null: rstd = 1 / sqrt(mean of squares + epsilon), and nothing is
// subtracted. scale and bias with data null: there is none.
//   layer norm: over = along = the last;   instance norm of [n, c, space..]: over space, along c;   batch norm: over n and space, along c
void norm(const Tensor& y, const Tensor& rstd, const Tensor& mean, const Tensor& x, const Tensor& scale, const Tensor& bias, uint32_t over,
          uint32_t along, double epsilon);
void norm_grad(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, const Tensor& scale, uint32_t over,
               uint32_t along, bool accumulate);
// dscale = sum of dy (x - mean) rstd; dbias = sum of dy, over the dimensions that are not in `along`. dbias with data null: not wanted.
void norm_grad_scale(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean,
                     uint32_t over, uint32_t along, bool accumulate);

// Windows that slide over space. Operands have the dimensions [batch, channels, space...], one to three of space; of each, `large` has the positions
// that windows see, `small` one position for each window: window y sees y * stride + k * dilation - pad of `large`, k in [0, kernel). What lies outside
// of `large` is left out. How far the last window goes follows from the lengths; positions that no window sees may remain. A piece of a tensor has
// another pad than the whole.
constexpr int max_space = 3;
struct Window {
  int64_t kernel[max_space] = {1, 1, 1}, stride[max_space] = {1, 1, 1}, dilation[max_space] = {1, 1, 1}, pad[max_space] = {};
  bool operator==(const Window&) const = default;
};

// The three products of convolution, each of two of `large` [n, g c, ..], `small` [n, g m, ..] and `weight` [g m, c, kernel..]; the number of groups g
// is what the channels of large are to the second dimension of weight. All sum over what their result does not have:
//   small[n, gm, y] (+)= sum over c, k of large[n, gc, window y at k] weight[gm, c, k]
//   large[n, gc, x] (+)= sum over m and all y, k with window y at k = x
//   weight[gm, c, k] (+)= sum over n, y
// Types as contract's: one type, or small floats whose result is f32.
void convolve(const Tensor& small, const Tensor& large, const Tensor& weight, const Window& window, bool accumulate);
void convolve_transposed(const Tensor& large, const Tensor& small, const Tensor& weight, const Window& window, bool accumulate);
void convolve_grad_weight(const Tensor& weight, const Tensor& large, const Tensor& small, const Window& window, bool accumulate);

// small = the maximum over each window, not a number where one is; `taps` (u8, small's dims; data null: not wanted): the first k, in row-major order over
// the kernel, that holds it. Kernels have at most 256 positions.
void max_pool(const Tensor& small, const Tensor& taps, const Tensor& large, const Window& window);
// large[x] (+)= the sum of small[y] over the windows y whose tap is at x.
void max_pool_grad(const Tensor& large, const Tensor& small, const Tensor& taps, const Window& window, bool accumulate);
// small = scale * the sum over each window; large (+)= scale * the sum over all windows that see it.
void sum_pool(const Tensor& small, const Tensor& large, const Window& window, double scale);
void sum_pool_grad(const Tensor& large, const Tensor& small, const Window& window, double scale, bool accumulate);

// out[i..] = logits[i.., labels[i..] - index_offset] along `dim`, 0 where the label is ignored or lies in another piece.
// `classes`: of the whole dimension; a label outside of [0, classes) is an error.
void pick(const Tensor& out, const Tensor& logits, const Tensor& labels, int dim, int64_t index_offset, int64_t classes, int64_t ignore_index);
// dlogits = (exp(logits - lse) - [label == class]) * dloss, 0 where the label is ignored; class = position + index_offset.
void cross_entropy_grad(const Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& labels, const Tensor& dloss, int dim,
                        int64_t index_offset, int64_t ignore_index);

// out = 0 everywhere, then out[starts + i * steps] = in[i] (gradient of slice). With accumulate the zeros are left out.
void pad(const Tensor& out, const Tensor& in, const int64_t* starts, const int64_t* steps, bool accumulate);

// loss_scale: no optimizer, but what finds the scale of a loss (f16). Its parameter is the scale, its gradient the norm of all gradients; moment1
// counts good steps in a row, moment2 the steps that were taken.
enum class Optimizer : uint8_t { sgd, adam, adamw, loss_scale };

struct UpdateRule {
  Optimizer optimizer = Optimizer::sgd;
  double lr = 0, momentum = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  bool operator==(const UpdateRule&) const = default;
};
// Views of equal dims. A new one may be the old one; else none of an update touches what another one writes.
struct UpdateOperands {
  Tensor new_parameter, new_moment1, new_moment2, parameter, gradient, moment1, moment2;
};
// The updates of parameters, by torch.optim's definitions (t counts from 1; on a GPU, step_on_device of cuda.h: it counts itself). All parameters are
// of one type. `clip`: a scalar that multiplies gradients first; data null: none. sgd uses `moment1` (data null if momentum is 0). `loss_scale`,
// `taken`: scalars; data null: none. With them gradients are divided by the scale, where `clip` is no number nothing is changed, and t is one more than
// the steps taken.
void update(std::span<const UpdateOperands> parameters, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken, const UpdateRule& rule,
            int64_t t);

// Threads that one rank's kernels may use (default 1). Per process.
void set_kernel_threads(int threads);

}  // namespace sscc::rt
