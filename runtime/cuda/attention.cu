// Attention on the GPU: what a call is made of. First what is small beside the scores (states of the mask's tiles, norms, rowsum(dout * out)), into the
// device's scratch, then the kernels proper: by tensor cores where they can read the operands, else from wherever elements lie.
#include "attention.cuh"

#include "device.h"
#include "group.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

// A block for each tile of each mask.
template <class T>
__global__ void __launch_bounds__(attention_threads)
    examine_masks(const __grid_constant__ AttentionArguments<T> a, const __grid_constant__ StridedWalk<1> masks) {
  using Real = Arithmetic<T>;
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  const uint32_t key_tile = blockIdx.x % a.key_tiles, query_tile = blockIdx.x / a.key_tiles % a.query_tiles;
  const int64_t base = offset_of(masks, blockIdx.x / a.key_tiles / a.query_tiles, 0);
  // Of what is added, or 1 where a score is replaced and 0 where not.
  Real largest = -infinity, smallest = infinity;
  for (uint32_t i = threadIdx.x; i < mask_tile * mask_tile; i += attention_threads) {
    const uint32_t query = query_tile * mask_tile + i / mask_tile, key = key_tile * mask_tile + i % mask_tile;
    if (query >= a.queries.count || key >= a.keys.count) continue;
    const int64_t at = base + offset_of(a.queries, query, AtQuery::mask) + offset_of(a.keys, key, AtKey::mask);
    Real value;
    if (a.kind == AttentionMask::add) {
      value = float_at<Real>(a.mask, a.mask_type, at);
      if (value != value) value = infinity;
    } else {
      value = (static_cast<const uint8_t*>(a.mask)[at] != 0) == (a.kind == AttentionMask::replace) ? Real(1) : Real(0);
    }
    largest = Largest()(largest, value);
    smallest = Smallest()(smallest, value);
  }
  largest = joined_in_group(largest, Largest());
  smallest = joined_in_group(smallest, Smallest());
  if (threadIdx.x != 0) return;
  MaskTile<Real> known;
  if (a.kind == AttentionMask::add) {
    known = {largest < lowest_exponent<Real> ? largest : infinity, largest != 0 || smallest != 0};
  } else {
    known = {smallest == 1 ? float_at<Real>(a.value, a.value_type, 0) : infinity, largest == 1};
  }
  a.map[blockIdx.x] = known;
}

// A block for each tile of queries and of keys, at each position of the batch.
template <class T>
__global__ void __launch_bounds__(attention_threads) find_norms(const __grid_constant__ AttentionArguments<T> a) {
  using Real = Arithmetic<T>;
  const uint32_t tiles = a.query_tiles + a.key_tiles, b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const bool of_queries = tile < a.query_tiles;
  const uint32_t first = (of_queries ? tile : tile - a.query_tiles) * mask_tile, count = of_queries ? a.queries.count : a.keys.count;
  const T* base = a.at(of_queries ? AtBatch::q : AtBatch::k, b);
  const uint32_t lane = threadIdx.x % warp;
  Real largest = 0;
  for (uint32_t row = first + threadIdx.x / warp; row < min(first + mask_tile, count); row += attention_threads / warp) {
    const T* x = base + (of_queries ? offset_of(a.queries, row, AtQuery::q) : offset_of(a.keys, row, AtKey::k));
    Real sum = 0;
    for (uint32_t z = lane; z < a.summed.count; z += warp) {
      const auto element = static_cast<Real>(x[of_queries ? offset_of(a.summed, z, AtSummed::q) : offset_of(a.summed, z, AtSummed::k)]);
      sum += element * element;
    }
    largest = Largest()(largest, joined_in_warp(sum, Add()));
  }
  largest = joined_in_group(lane == 0 ? largest : Real(0), Largest());
  if (threadIdx.x != 0) return;
  const Real norm = sqrt(largest);
  if (of_queries)
    a.query_norms[int64_t{b} * a.query_tiles + tile] = norm;
  else
    a.key_norms[int64_t{b} * a.key_tiles + tile - a.query_tiles] = norm;
}

// A block for each tile of queries, at each position of the batch: delta, and the lowest log_sum.
template <class T>
__global__ void __launch_bounds__(attention_threads) prepare_gradients(const __grid_constant__ AttentionArguments<T> a) {
  using Real = Arithmetic<T>;
  const uint32_t b = blockIdx.x / a.query_tiles, tile = blockIdx.x % a.query_tiles, first = tile * mask_tile;
  const T *out = a.at(AtBatch::out, b), *dout = a.at(AtBatch::dout, b);
  const Real* log_sums = a.log_sums + offset_of(a.batch, b, AtBatch::sums);
  const uint32_t lane = threadIdx.x % warp;
  Real lowest = std::numeric_limits<Real>::infinity();
  for (uint32_t row = first + threadIdx.x / warp; row < min(first + mask_tile, a.queries.count); row += attention_threads / warp) {
    const T *x = out + offset_of(a.queries, row, AtQuery::out), *dx = dout + offset_of(a.queries, row, AtQuery::dout);
    Real sum = 0;
    for (uint32_t w = lane; w < a.values.count; w += warp)
      sum += static_cast<Real>(x[offset_of(a.values, w, AtValue::out)]) * static_cast<Real>(dx[offset_of(a.values, w, AtValue::dout)]);
    sum = joined_in_warp(sum, Add());
    if (lane == 0) a.delta[int64_t{b} * a.queries.count + row] = sum;
    lowest = Smallest()(lowest, log_sums[offset_of(a.queries, row, AtQuery::sums)]);
  }
  lowest = joined_in_group(lowest, Smallest());
  if (threadIdx.x == 0) a.lowest[blockIdx.x] = lowest;
}

// -- a call ---------------------------------------------------------------------------------------------------------------------------------------

struct Call {
  const Tensor *q, *k, *v, *out, *dout, *dq, *dk, *dv, *log_sums, *mask, *value;
  const char* equation;
  const AttentionRule& rule;
  bool is_backward() const { return dq; }
};

// What is left of the scratch.
class Scratch {
 public:
  template <class Element>
  Element* take(int64_t count) {
    auto* result = reinterpret_cast<Element*>(device().scratch + used_);
    used_ += static_cast<size_t>(count) * sizeof(Element);
    used_ = (used_ + 255) / 256 * 256;
    if (used_ > scratch_bytes) throw std::logic_error("attention: too many queries for the workspace");
    return result;
  }

 private:
  size_t used_ = 0;
};

template <int operands>
StridedWalk<operands> walk_of(const StridedLoop& loop, const int (&which)[operands]) {
  if (length_of(loop) >= largest_walk) throw std::logic_error("attention: a dimension of 2^31 or more");
  StridedLoop chosen = loop;
  for (int o = 0; o < operands; ++o) std::copy_n(loop.strides[which[o]], max_rank, chosen.strides[o]);
  return StridedWalk<operands>(chosen);
}

// Whether rows of the operand are 16-byte pieces that begin at multiples of 16 bytes.
bool has_whole_pieces(const Tensor& tensor, const AttentionLoops& loops, int operand, const StridedLoop& rows, const StridedLoop& columns) {
  constexpr int64_t piece = 8;
  if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0 || columns.rank != 1 || columns.row_length() % piece != 0) return false;
  if (columns.row_stride(operand) != 1) return false;
  for (const StridedLoop* loop : {&loops.batch, &rows})
    for (int d = 0; d < loop->rank; ++d)
      if (loop->dims[d] != 1 && loop->strides[operand][d] % piece != 0) return false;
  return true;
}

template <class T>
void enqueue(const Call& call) {
  using Real = Arithmetic<T>;
  const auto given = [](const Tensor* tensor, AttentionLabels labels, const Tensor& otherwise) {
    return AttentionOperand{tensor ? *tensor : otherwise, labels};
  };
  // Forward, gradients walk as what they are gradients of, and nobody looks.
  const AttentionOperand operands[] = {given(call.q, AttentionLabels::q, {}),
                                       given(call.k, AttentionLabels::k, {}),
                                       given(call.v, AttentionLabels::v, {}),
                                       given(call.out, AttentionLabels::out, {}),
                                       given(call.dout, AttentionLabels::out, *call.out),
                                       given(call.dq, AttentionLabels::q, *call.q),
                                       given(call.dk, AttentionLabels::k, *call.k),
                                       given(call.dv, AttentionLabels::v, *call.v),
                                       given(call.log_sums, AttentionLabels::sums, {}),
                                       given(call.mask, AttentionLabels::scores, {})};
  AttentionLoops loops = attention_loops(call.equation, operands);
  const AttentionShape whole{length_of(loops.batch), length_of(loops.queries), length_of(loops.keys), length_of(loops.summed),
                             length_of(loops.values)};
  if (whole.batches == 0) return;
  if (whole.keys == 0) {  // empty sums
    fill(call.is_backward() ? *call.dq : *call.out, 0);
    if (!call.is_backward() && call.log_sums->data) fill(*call.log_sums, -std::numeric_limits<double>::infinity());
    return;
  }
  if (whole.queries == 0) {
    if (!call.is_backward()) return;
    fill(*call.dk, 0);
    return fill(*call.dv, 0);
  }

  AttentionArguments<T> a{};
  a.queries = walk_of(loops.queries, {AtBatch::q, AtBatch::out, AtBatch::dout, AtBatch::dq, AtBatch::sums, AtBatch::mask});
  a.keys = walk_of(loops.keys, {AtBatch::k, AtBatch::v, AtBatch::dk, AtBatch::dv, AtBatch::mask});
  a.summed = walk_of(loops.summed, {AtBatch::q, AtBatch::k, AtBatch::dq, AtBatch::dk});
  a.values = walk_of(loops.values, {AtBatch::v, AtBatch::out, AtBatch::dout, AtBatch::dv});
  a.mask_type = call.mask->dtype;
  a.value = call.value->data;
  a.value_type = call.value->dtype;
  a.kind = call.rule.mask;
  a.scale = static_cast<Real>(call.rule.scale);
  a.low = static_cast<Real>(call.rule.low);
  a.high = static_cast<Real>(call.rule.high);
  a.query_tiles = static_cast<uint32_t>((whole.queries + mask_tile - 1) / mask_tile);
  a.key_tiles = static_cast<uint32_t>((whole.keys + mask_tile - 1) / mask_tile);

  bool by_tensor_cores = false;
  if constexpr (is_small_float<T>) {
    by_tensor_cores = attention_fits_tensor_cores(whole, call.is_backward());
    for (const int o : {AtBatch::q, AtBatch::dq, AtBatch::k, AtBatch::dk})
      by_tensor_cores = by_tensor_cores && has_whole_pieces(operands[o].tensor, loops, o,
                                                            o == AtBatch::q || o == AtBatch::dq ? loops.queries : loops.keys, loops.summed);
    for (const int o : {AtBatch::out, AtBatch::dout, AtBatch::v, AtBatch::dv})
      by_tensor_cores = by_tensor_cores && has_whole_pieces(operands[o].tensor, loops, o,
                                                            o == AtBatch::out || o == AtBatch::dout ? loops.queries : loops.keys, loops.values);
  }

  // What a position of the batch takes of the scratch, at most.
  const int64_t tiles = int64_t{a.query_tiles} * a.key_tiles, edges = int64_t{a.query_tiles} + a.key_tiles;
  constexpr int64_t available = static_cast<int64_t>(scratch_bytes) - 8 * 256;
  const int64_t of_rows = (2 * whole.queries + a.query_tiles + edges) * static_cast<int64_t>(sizeof(Real));
  const int64_t of_map = tiles * static_cast<int64_t>(sizeof(MaskTile<Real>));
  const bool has_map = a.kind != AttentionMask::none && of_map + of_rows <= available;
  const int64_t most = std::clamp<int64_t>(available / (of_rows + (has_map ? of_map : 0)), 1, largest_walk - 1);

  // A mask that several positions of the batch share is looked at once.
  loops.batch.operands = AtBatch::count;
  const auto give = [&](const StridedLoop& piece, const StridedLoop::Offsets& base) {
    StridedLoop batch = piece, masks;
    masks.operands = 1;
    int64_t count = 1;
    for (int d = batch.rank; d-- > 0;) {
      const bool has_own = batch.strides[AtBatch::mask][d] != 0;
      batch.strides[AtBatch::map][d] = has_own ? count : 0;
      if (has_own) count *= batch.dims[d];
    }
    for (int d = 0; d < batch.rank; ++d) {
      if (batch.strides[AtBatch::mask][d] == 0) continue;
      masks.dims[masks.rank] = batch.dims[d];
      masks.strides[0][masks.rank++] = batch.strides[AtBatch::mask][d];
    }
    if (masks.rank == 0) masks.dims[masks.rank++] = 1;

    AttentionArguments<T> part = a;
    AttentionShape shape = whole;
    shape.batches = length_of(batch);
    part.batch = StridedWalk<AtBatch::count>(batch);
    for (int o = 0; o <= AtBatch::dv; ++o) part.data[o] = static_cast<T*>(operands[o].tensor.data) + base[static_cast<size_t>(o)];
    part.log_sums = call.log_sums->data ? static_cast<Real*>(call.log_sums->data) + base[AtBatch::sums] : nullptr;
    part.mask = static_cast<const std::byte*>(call.mask->data) + base[AtBatch::mask] * static_cast<int64_t>(size_of(call.mask->dtype));

    Scratch scratch;
    const dim3 block(attention_threads);
    if (has_map) {
      part.map = scratch.take<MaskTile<Real>>(count * tiles);
      launch(examine_masks<T>, blocks_of(count * tiles), block, 0, part, StridedWalk<1>(masks));
      if (a.kind == AttentionMask::add) {
        part.query_norms = scratch.take<Real>(shape.batches * a.query_tiles);
        part.key_norms = scratch.take<Real>(shape.batches * a.key_tiles);
        launch(find_norms<T>, blocks_of(shape.batches * edges), block, 0, part);
      }
    }
    if (call.is_backward()) {
      part.delta = scratch.take<Real>(shape.batches * whole.queries);
      part.factor = scratch.take<Real>(shape.batches * whole.queries);
      part.lowest = scratch.take<Real>(shape.batches * a.query_tiles);
      launch(prepare_gradients<T>, blocks_of(shape.batches * a.query_tiles), block, 0, part);
    }
    if constexpr (is_small_float<T>) {
      if (by_tensor_cores) return call.is_backward() ? attention_grad_by_tensor_cores(part, shape) : attention_by_tensor_cores(part, shape);
    }
    call.is_backward() ? attention_grad_strided(part, shape) : attention_strided(part, shape);
  };
  for_each_piece(loops.batch, StridedLoop::Offsets{}, give, most);
}

}  // namespace

void attention(const Tensor& out, const Tensor& log_sums, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& value,
               const char* equation, const AttentionRule& rule) {
  expect_attention_types("attention", {q, k, v, out}, log_sums, mask, value, rule);
  const Call call{&q, &k, &v, &out, nullptr, nullptr, nullptr, nullptr, &log_sums, &mask, &value, equation, rule};
  for_any_float_type("attention", q.dtype, [&](auto t) { enqueue<decltype(t)>(call); });
}

void attention_grad(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                    const Tensor& log_sums, const Tensor& dout, const Tensor& mask, const Tensor& value, const char* equation,
                    const AttentionRule& rule) {
  expect_attention_types("attention_grad", {q, k, v, out, dout, dq, dk, dv}, log_sums, mask, value, rule);
  const Call call{&q, &k, &v, &out, &dout, &dq, &dk, &dv, &log_sums, &mask, &value, equation, rule};
  for_any_float_type("attention_grad", q.dtype, [&](auto t) { enqueue<decltype(t)>(call); });
}

}  // namespace sscc::rt
