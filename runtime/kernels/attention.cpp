// Attention by blocks: a block of queries meets one block of keys after the other, and only their block of the scores is in memory.
//
// Forward, for each block of queries: the largest score m and the sum l of exp(score - m) so far go along with the sum of exp(score - m) v so far; a
// block with a larger score scales all that was summed before it. Backward, weights are exp(score - log_sum), and with
//   delta = rowsum(dout * out),  dp = dout v^T,  ds = weights * (dp - delta):   dv = weights^T dout,  dq = scale ds k,  dk = scale ds^T q.
//
// A block of keys is left out where its mask makes all its weights 0 (BlockMask). What that takes is known only when larger scores were met, so
// blocks that are masked as a whole come last.
#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_loops.h"
#include "dispatch.h"
#include "products.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {
namespace {

constexpr int64_t query_block = 128, key_block = 128;

struct Range {
  int64_t begin, end;
  int64_t length() const { return end - begin; }
};
Range block_of(int64_t number, int64_t size, int64_t length) { return {number * size, std::min((number + 1) * size, length)}; }
int64_t blocks_of(int64_t length, int64_t size) { return (length + size - 1) / size; }

// -- blocks of operands ---------------------------------------------------------------------------------------------------------------------------

template <class Real>
struct Matrix {
  const Real* data;
  int64_t row_stride;
};

// q, k, ...: for each position of the batch a matrix, whose rows are queries or keys.
template <class T>
class Rows {
  using Real = Arithmetic<T>;

 public:
  Rows(const Tensor& tensor, const AttentionLoops& loops, int operand, const StridedLoop& rows, const StridedLoop& columns)
      : data_(static_cast<T*>(tensor.data)),
        batch_(offsets_of(loops.batch, operand)),
        rows_(offsets_of(rows, operand)),
        columns_(offsets_of(columns, operand)),
        is_dense_(columns_.size() <= 1 || (columns.rank == 1 && columns.row_stride(operand) == 1)),
        is_matrix_(std::is_same_v<T, Real> && is_dense_ && rows.rank == 1 && rows.row_stride(operand) >= width()),
        row_stride_(rows.row_stride(operand)) {}

  int64_t width() const { return static_cast<int64_t>(columns_.size()); }

  // In place or, where the library could not read it or the type is small, copied to `scratch`.
  Matrix<Real> read(int64_t batch, Range range, std::vector<Real>& scratch) const {
    const T* base = data_ + batch_[static_cast<size_t>(batch)];
    if constexpr (std::is_same_v<T, Real>) {
      if (is_matrix_) return {base + rows_[static_cast<size_t>(range.begin)], row_stride_};
    }
    scratch.resize(static_cast<size_t>(range.length() * width()));
    Real* to = scratch.data();
    for (int64_t r = range.begin; r < range.end; ++r, to += width()) {
      const T* row = base + rows_[static_cast<size_t>(r)];
      if (is_dense_) {
#pragma omp simd
        for (int64_t c = 0; c < width(); ++c) to[c] = static_cast<Real>(row[c]);
      } else {
        for (int64_t c = 0; c < width(); ++c) to[c] = static_cast<Real>(row[columns_[static_cast<size_t>(c)]]);
      }
    }
    return {scratch.data(), width()};
  }

  // Dense rows go where they belong.
  void write(int64_t batch, Range range, const Real* from) const {
    T* base = data_ + batch_[static_cast<size_t>(batch)];
    for (int64_t r = range.begin; r < range.end; ++r, from += width()) {
      T* row = base + rows_[static_cast<size_t>(r)];
      if (is_dense_) {
#pragma omp simd
        for (int64_t c = 0; c < width(); ++c) row[c] = static_cast<T>(from[c]);
      } else {
        for (int64_t c = 0; c < width(); ++c) row[columns_[static_cast<size_t>(c)]] = static_cast<T>(from[c]);
      }
    }
  }

 private:
  T* data_;
  std::vector<int64_t> batch_, rows_, columns_;
  bool is_dense_, is_matrix_;
  int64_t row_stride_;
};

// One number for each query.
template <class Real>
class Column {
 public:
  Column(const Tensor& tensor, const AttentionLoops& loops, int operand)
      : data_(static_cast<Real*>(tensor.data)), batch_(offsets_of(loops.batch, operand)), queries_(offsets_of(loops.queries, operand)) {}
  explicit operator bool() const { return data_; }
  Real& at(int64_t batch, int64_t query) const { return data_[batch_[static_cast<size_t>(batch)] + queries_[static_cast<size_t>(query)]]; }

 private:
  Real* data_;
  std::vector<int64_t> batch_, queries_;
};

// -- masks ----------------------------------------------------------------------------------------------------------------------------------------

double scalar_of(const Tensor& tensor) {
  double value = 0;
  for_any_float_type("attention", tensor.dtype, [&](auto t) { value = static_cast<double>(*static_cast<const decltype(t)*>(tensor.data)); });
  return value;
}

// What is known of a block of scores from its mask alone.
template <class Real>
struct BlockMask {
  bool has_effect = false;
  Real highest = std::numeric_limits<Real>::infinity();  // no score is higher
};

// Row by row: of booleans the bytes, of what is added the numbers, from wherever they lie.
template <class Real>
class Mask {
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();

 public:
  Mask(const Tensor& mask, const Tensor& value, const AttentionLoops& loops, int operand, const AttentionRule& rule)
      : kind_(rule.mask), low_(static_cast<Real>(rule.low)), high_(static_cast<Real>(rule.high)), data_(mask.data), type_(mask.dtype) {
    if (kind_ == AttentionMask::none) return;
    batch_ = offsets_of(loops.batch, operand);
    queries_ = offsets_of(loops.queries, operand);
    keys_ = offsets_of(loops.keys, operand);
    is_dense_ = loops.keys.rank == 1 && loops.keys.row_stride(operand) == 1;
    if (kind_ != AttentionMask::add) value_ = static_cast<Real>(scalar_of(value));
  }

  bool replaces() const { return kind_ == AttentionMask::replace || kind_ == AttentionMask::keep; }

  // `reach()`: a number that no |scale q.k| of the block exceeds. It is asked for where what is added might be low enough.
  template <class Reach>
  BlockMask<Real> examine(int64_t batch, Range queries, Range keys, const Reach& reach) {
    if (kind_ == AttentionMask::none) return {};
    if (replaces()) {
      bool some = false, all = true;
      for_distinct_rows(batch, queries, [&](int64_t query) {
        const uint8_t* flags = row(batch, query, keys, flags_);
        int set = 0;
#pragma omp simd reduction(+ : set)
        for (int64_t j = 0; j < keys.length(); ++j) set += flags[j] != 0;
        const int64_t masked = kind_ == AttentionMask::replace ? set : keys.length() - set;
        some |= masked > 0;
        all &= masked == keys.length();
        return !some || all;
      });
      return {some, all ? clamped(value_) : infinity};
    }
    Real largest = -infinity, smallest = infinity;
    for_distinct_rows(batch, queries, [&](int64_t query) {
      const Real* added = row(batch, query, keys, added_);
#pragma omp simd reduction(max : largest) reduction(min : smallest)
      for (int64_t j = 0; j < keys.length(); ++j) {
        largest = added[j] > largest ? added[j] : largest;
        smallest = added[j] < smallest ? added[j] : smallest;
      }
      return true;
    });
    const bool is_low = largest < lowest_exponent<Real>;
    return {largest != 0 || smallest != 0, !is_low ? infinity : clamped(largest == -infinity ? largest : largest + reach())};
  }

  // scores = clamp(masked(scores)), a row of a block.
  void apply(int64_t batch, int64_t query, Range keys, bool has_effect, Real* scores) {
    const int64_t n = keys.length();
    if (has_effect && replaces()) {
      select(row(batch, query, keys, flags_), n, value_, scores);
    } else if (has_effect) {
      const Real* added = row(batch, query, keys, added_);
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) scores[j] += added[j];
    }
    if (low_ > -infinity || high_ < infinity) {
      const Real low = low_, high = high_;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) scores[j] = scores[j] < low ? low : scores[j] > high ? high : scores[j];
    }
  }
  // gradients = 0 where the mask replaces the score.
  void stop(int64_t batch, int64_t query, Range keys, Real* gradients) { select(row(batch, query, keys, flags_), keys.length(), Real(0), gradients); }

 private:
  // What the mask replaces becomes `value`.
  void select(const uint8_t* flags, int64_t n, Real value, Real* numbers) const {
    if (kind_ == AttentionMask::replace) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) numbers[j] = flags[j] ? value : numbers[j];
    } else {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) numbers[j] = flags[j] ? numbers[j] : value;
    }
  }
  Real clamped(Real score) const { return score < low_ ? low_ : score > high_ ? high_ : score; }
  int64_t offset(int64_t batch, int64_t query) const { return batch_[static_cast<size_t>(batch)] + queries_[static_cast<size_t>(query)]; }

  // visit(query) until it returns false; a row that repeats the one before it is not visited again.
  template <class Visit>
  void for_distinct_rows(int64_t batch, Range queries, const Visit& visit) const {
    for (int64_t query = queries.begin; query < queries.end; ++query) {
      if (query > queries.begin && offset(batch, query) == offset(batch, query - 1)) continue;
      if (!visit(query)) return;
    }
  }

  // In place, or gathered in `scratch` as numbers of its type.
  template <class To>
  const To* row(int64_t batch, int64_t query, Range keys, std::vector<To>& scratch) const {
    const To* result = nullptr;
    const auto gather = [&](auto element) {
      using From = decltype(element);
      const From* base = static_cast<const From*>(data_) + offset(batch, query);
      if constexpr (std::is_same_v<From, To>) {
        if (is_dense_) {
          result = base + keys_[static_cast<size_t>(keys.begin)];
          return;
        }
      }
      scratch.resize(static_cast<size_t>(keys.length()));
      for (int64_t j = 0; j < keys.length(); ++j)
        scratch[static_cast<size_t>(j)] = static_cast<To>(static_cast<Arithmetic<From>>(base[keys_[static_cast<size_t>(keys.begin + j)]]));
      result = scratch.data();
    };
    if constexpr (std::is_same_v<To, uint8_t>) {
      gather(uint8_t());
    } else {
      for_any_float_type("attention", type_, gather);
    }
    return result;
  }

  AttentionMask kind_;
  Real low_, high_, value_ = 0;
  const void* data_;
  DType type_;
  bool is_dense_ = false;
  std::vector<int64_t> batch_, queries_, keys_;
  std::vector<uint8_t> flags_;
  std::vector<Real> added_;
};

// The largest length of a row.
template <class Real>
Real largest_norm(Matrix<Real> rows, int64_t count, int64_t width) {
  Real largest = 0;
  for (int64_t r = 0; r < count; ++r) {
    const Real* row = rows.data + r * rows.row_stride;
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; ++c) sum += row[c] * row[c];
    largest = std::max(largest, sum);
  }
  return std::sqrt(largest);
}
// What |scale q.k| cannot exceed, however it is rounded.
template <class Real>
Real reach_of(double scale, Real query_norm, Real key_norm) {
  return static_cast<Real>(std::fabs(scale)) * query_norm * key_norm * Real(1.01);
}

// -- forward --------------------------------------------------------------------------------------------------------------------------------------

template <class T>
struct Forward {
  using Real = Arithmetic<T>;
  static constexpr Real infinity = std::numeric_limits<Real>::infinity();

  Rows<T> q, k, v, out;
  Column<Real> log_sums;
  const Mask<Real>& mask;
  double scale;
  int64_t keys;

  // One block of queries.
  struct Task {
    const Forward& f;
    Mask<Real> mask;
    int64_t batch;
    Range rows;
    std::vector<Real> q_scratch, k_scratch, v_scratch, scores, sums;
    std::vector<Real> largest, total;  // of exp(score - largest), for each row
    Matrix<Real> q{};
    Real query_norm = -1;

    Task(const Forward& forward, int64_t at_batch, Range range) : f(forward), mask(forward.mask), batch(at_batch), rows(range) {
      q = f.q.read(batch, rows, q_scratch);
      sums.assign(static_cast<size_t>(rows.length() * f.v.width()), 0);
      largest.assign(static_cast<size_t>(rows.length()), -infinity);
      total.assign(static_cast<size_t>(rows.length()), 0);
    }

    BlockMask<Real> examine(Range keys) {
      return mask.examine(batch, rows, keys, [&] {
        if (query_norm < 0) query_norm = largest_norm(q, rows.length(), f.q.width());
        return reach_of(f.scale, query_norm, largest_norm(f.k.read(batch, keys, k_scratch), keys.length(), f.k.width()));
      });
    }

    void add(Range keys, bool masked) {
      const int64_t m = rows.length(), n = keys.length(), width = f.v.width();
      const Matrix<Real> k = f.k.read(batch, keys, k_scratch), v = f.v.read(batch, keys, v_scratch);
      scores.resize(static_cast<size_t>(m * n));
      multiply(false, true, m, n, f.q.width(), f.scale, q.data, q.row_stride, k.data, k.row_stride, 0, scores.data(), n);
      for (int64_t i = 0; i < m; ++i) {
        Real* s = scores.data() + i * n;
        mask.apply(batch, rows.begin + i, keys, masked, s);
        Real& before = largest[static_cast<size_t>(i)];
        Real now = before;
#pragma omp simd reduction(max : now)
        for (int64_t j = 0; j < n; ++j) now = s[j] > now ? s[j] : now;
        const Real subtracted = now == -infinity ? 0 : now;  // so far all scores are -infinity: weights are 0
        Real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < n; ++j) {
          s[j] = scalar::exp_of(s[j] - subtracted);
          sum += s[j];
        }
        Real& all = total[static_cast<size_t>(i)];
        if (now != before) {
          const Real factor = scalar::exp_of(before - subtracted);
          Real* o = sums.data() + i * width;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) o[c] *= factor;
          all *= factor;
        }
        before = now;
        all += sum;
      }
      multiply(false, false, m, width, n, 1, scores.data(), n, v.data, v.row_stride, 1, sums.data(), width);
    }

    void finish() {
      for (int64_t i = 0; i < rows.length(); ++i) {
        const Real all = total[static_cast<size_t>(i)], factor = Real(1) / all;  // of a row of -infinity: 0 * infinity
        Real* o = sums.data() + i * f.v.width();
#pragma omp simd
        for (int64_t c = 0; c < f.v.width(); ++c) o[c] *= factor;
        if (f.log_sums) f.log_sums.at(batch, rows.begin + i) = largest[static_cast<size_t>(i)] + std::log(all);
      }
      f.out.write(batch, rows, sums.data());
    }
  };

  void run(int64_t batch, Range rows) const {
    Task task(*this, batch, rows);
    struct Late {
      Range keys;
      Real highest;
    };
    std::vector<Late> late;
    for (int64_t j = 0; j < blocks_of(keys, key_block); ++j) {
      const Range block = block_of(j, key_block, keys);
      const BlockMask<Real> known = task.examine(block);
      if (known.highest == infinity)
        task.add(block, known.has_effect);
      else if (known.highest > -infinity)
        late.push_back({block, known.highest});
    }
    for (const Late& block : late) {
      const Real lowest = *std::min_element(task.largest.begin(), task.largest.end());
      if (!(block.highest - lowest < lowest_exponent<Real>)) task.add(block.keys, true);
    }
    task.finish();
  }
};

// -- backward -------------------------------------------------------------------------------------------------------------------------------------

template <class T>
struct Backward {
  using Real = Arithmetic<T>;

  Rows<T> q, k, v, out, dout, dq, dk, dv;
  Column<Real> log_sums;
  const Mask<Real>& mask;
  double scale;
  int64_t queries, keys;

  // Gradients of the queries, of the keys, or of both; the sums that make up an element are the same, in the same order.
  struct Wanted {
    bool of_queries, of_keys;
  };

  struct Task {
    const Backward& b;
    Mask<Real> mask;
    int64_t batch;
    Range rows{};  // the block of queries
    std::vector<Real> q_scratch, k_scratch, v_scratch, out_scratch, dout_scratch, weights, dp;
    std::vector<Real> log_sums, delta, factor;  // for each row
    Matrix<Real> q{}, dout{};
    Real query_norm = -1, lowest = 0;

    Task(const Backward& backward, int64_t at_batch) : b(backward), mask(backward.mask), batch(at_batch) {}

    void enter(Range block) {
      rows = block;
      query_norm = -1;
      q = b.q.read(batch, rows, q_scratch);
      dout = b.dout.read(batch, rows, dout_scratch);
      const Matrix<Real> o = b.out.read(batch, rows, out_scratch);
      const auto m = static_cast<size_t>(rows.length());
      log_sums.resize(m), delta.resize(m);
      factor.assign(m, 1);
      bool is_rough = false;
      for (int64_t i = 0; i < rows.length(); ++i) {
        const Real *x = o.data + i * o.row_stride, *dx = dout.data + i * dout.row_stride;
        Real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < b.out.width(); ++c) sum += x[c] * dx[c];
        delta[static_cast<size_t>(i)] = sum;
        log_sums[static_cast<size_t>(i)] = b.log_sums.at(batch, rows.begin + i);
        is_rough |= std::fabs(log_sums[static_cast<size_t>(i)]) > 1024;
      }
      lowest = *std::min_element(log_sums.begin(), log_sums.end());
      if (is_rough) normalise();
    }

    // A log_sum of -1e9 (all keys masked) has no digits left for the logarithm of the number of keys: the sum of the weights says what is missing.
    void normalise() {
      std::vector<Real> sums(factor.size(), 0);
      for (int64_t j = 0; j < blocks_of(b.keys, key_block); ++j) {
        const Range keys_of_block = block_of(j, key_block, b.keys);
        BlockMask<Real> known;
        if (!weigh(keys_of_block, known)) continue;
        for (int64_t i = 0; i < rows.length(); ++i)
          for (int64_t j2 = 0; j2 < keys_of_block.length(); ++j2)
            sums[static_cast<size_t>(i)] += weights[static_cast<size_t>(i * keys_of_block.length() + j2)];
      }
      for (size_t i = 0; i < sums.size(); ++i) factor[i] = 1 / sums[i];
    }

    // The weights of a block of keys; false: they are all 0.
    bool weigh(Range block, BlockMask<Real>& known) {
      known = mask.examine(batch, rows, block, [&] {
        if (query_norm < 0) query_norm = largest_norm(q, rows.length(), b.q.width());
        return reach_of(b.scale, query_norm, largest_norm(b.k.read(batch, block, k_scratch), block.length(), b.k.width()));
      });
      if (known.highest - lowest < lowest_exponent<Real>) return false;
      const int64_t m = rows.length(), n = block.length();
      const Matrix<Real> k = b.k.read(batch, block, k_scratch);
      weights.resize(static_cast<size_t>(m * n));
      multiply(false, true, m, n, b.q.width(), b.scale, q.data, q.row_stride, k.data, k.row_stride, 0, weights.data(), n);
      for (int64_t i = 0; i < m; ++i) {
        Real* w = weights.data() + i * n;
        mask.apply(batch, rows.begin + i, block, known.has_effect, w);
        const Real subtracted = log_sums[static_cast<size_t>(i)], scaled = factor[static_cast<size_t>(i)];
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) w[j] = scalar::exp_of(w[j] - subtracted) * scaled;
      }
      return true;
    }

    // Adds a block's parts of the gradients to dense rows.
    void add(Range block, Real* dq, Real* dk, Real* dv) {
      BlockMask<Real> known;
      if (!weigh(block, known)) return;
      const int64_t m = rows.length(), n = block.length(), depth = b.q.width(), width = b.v.width();
      const Matrix<Real> k = b.k.read(batch, block, k_scratch), v = b.v.read(batch, block, v_scratch);
      dp.resize(static_cast<size_t>(m * n));
      multiply(false, true, m, n, width, 1, dout.data, dout.row_stride, v.data, v.row_stride, 0, dp.data(), n);
      if (dv) multiply(true, false, n, width, m, 1, weights.data(), n, dout.data, dout.row_stride, 1, dv, width);
      for (int64_t i = 0; i < m; ++i) {
        Real *ds = dp.data() + i * n, *w = weights.data() + i * n;
        const Real subtracted = delta[static_cast<size_t>(i)];
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) ds[j] = w[j] * (ds[j] - subtracted);
        if (known.has_effect && mask.replaces()) mask.stop(batch, rows.begin + i, block, ds);
      }
      if (dq) multiply(false, false, m, depth, n, b.scale, dp.data(), n, k.data, k.row_stride, 1, dq, depth);
      if (dk) multiply(true, false, n, depth, m, b.scale, dp.data(), n, q.data, q.row_stride, 1, dk, depth);
    }
  };

  // Blocks of queries and keys, by number.
  void run(int64_t batch, Range query_blocks, Range key_blocks, Wanted wanted) const {
    const int64_t depth = q.width(), width = v.width();
    const Range all_keys{key_blocks.begin * key_block, std::min(key_blocks.end * key_block, keys)};
    std::vector<Real> dq_rows, dk_rows, dv_rows;
    if (wanted.of_keys) {
      dk_rows.assign(static_cast<size_t>(all_keys.length() * depth), 0);
      dv_rows.assign(static_cast<size_t>(all_keys.length() * width), 0);
    }
    Task task(*this, batch);
    for (int64_t i = query_blocks.begin; i < query_blocks.end; ++i) {
      task.enter(block_of(i, query_block, queries));
      if (wanted.of_queries) dq_rows.assign(static_cast<size_t>(task.rows.length() * depth), 0);
      for (int64_t j = key_blocks.begin; j < key_blocks.end; ++j) {
        const Range block = block_of(j, key_block, keys);
        const int64_t row = block.begin - all_keys.begin;
        task.add(block, wanted.of_queries ? dq_rows.data() : nullptr, wanted.of_keys ? dk_rows.data() + row * depth : nullptr,
                 wanted.of_keys ? dv_rows.data() + row * width : nullptr);
      }
      if (wanted.of_queries) dq.write(batch, task.rows, dq_rows.data());
    }
    if (wanted.of_keys) {
      dk.write(batch, all_keys, dk_rows.data());
      dv.write(batch, all_keys, dv_rows.data());
    }
  }
};

}  // namespace

void attention(const Tensor& out, const Tensor& log_sums, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& value,
               const char* equation, const AttentionRule& rule) {
  expect_attention_types("attention", {q, k, v, out}, log_sums, mask, value, rule);
  const AttentionOperand operands[] = {{q, AttentionLabels::q},     {k, AttentionLabels::k},           {v, AttentionLabels::v},
                                       {out, AttentionLabels::out}, {log_sums, AttentionLabels::sums}, {mask, AttentionLabels::scores}};
  const AttentionLoops loops = attention_loops(equation, operands);
  const int64_t batches = length_of(loops.batch), queries = length_of(loops.queries), keys = length_of(loops.keys);
  if (keys == 0) {  // empty sums
    fill(out, 0);
    if (log_sums.data) fill(log_sums, -std::numeric_limits<double>::infinity());
    return;
  }
  for_any_float_type("attention", out.dtype, [&](auto t) {
    using T = decltype(t);
    const Mask<Arithmetic<T>> of_scores(mask, value, loops, 5, rule);
    const Forward<T> forward{{q, loops, 0, loops.queries, loops.summed},
                             {k, loops, 1, loops.keys, loops.summed},
                             {v, loops, 2, loops.keys, loops.values},
                             {out, loops, 3, loops.queries, loops.values},
                             {log_sums, loops, 4},
                             of_scores,
                             rule.scale,
                             keys};
    const int64_t blocks = blocks_of(queries, query_block);
    parallel_ranges(batches * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) forward.run(i / blocks, block_of(i % blocks, query_block, queries));
    });
  });
}

void attention_grad(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                    const Tensor& log_sums, const Tensor& dout, const Tensor& mask, const Tensor& value, const char* equation,
                    const AttentionRule& rule) {
  expect_attention_types("attention_grad", {q, k, v, out, dout, dq, dk, dv}, log_sums, mask, value, rule);
  const AttentionOperand operands[] = {{q, AttentionLabels::q},        {k, AttentionLabels::k},      {v, AttentionLabels::v},
                                       {out, AttentionLabels::out},    {dout, AttentionLabels::out}, {dq, AttentionLabels::q},
                                       {dk, AttentionLabels::k},       {dv, AttentionLabels::v},     {log_sums, AttentionLabels::sums},
                                       {mask, AttentionLabels::scores}};
  const AttentionLoops loops = attention_loops(equation, operands);
  const int64_t batches = length_of(loops.batch), queries = length_of(loops.queries), keys = length_of(loops.keys);
  if (keys == 0) return fill(dq, 0);
  for_any_float_type("attention_grad", q.dtype, [&](auto t) {
    using T = decltype(t);
    const Mask<Arithmetic<T>> of_scores(mask, value, loops, 9, rule);
    const Backward<T> backward{{q, loops, 0, loops.queries, loops.summed},
                               {k, loops, 1, loops.keys, loops.summed},
                               {v, loops, 2, loops.keys, loops.values},
                               {out, loops, 3, loops.queries, loops.values},
                               {dout, loops, 4, loops.queries, loops.values},
                               {dq, loops, 5, loops.queries, loops.summed},
                               {dk, loops, 6, loops.keys, loops.summed},
                               {dv, loops, 7, loops.keys, loops.values},
                               {log_sums, loops, 8},
                               of_scores,
                               rule.scale,
                               queries,
                               keys};
    const Range query_blocks{0, blocks_of(queries, query_block)}, key_blocks{0, blocks_of(keys, key_block)};
    if (batches >= kernel_threads()) {
      parallel_ranges(batches, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) backward.run(i, query_blocks, key_blocks, {true, true});
      });
      return;
    }
    // More threads than that: weights are computed for the queries, and again for the keys.
    parallel_ranges(batches * query_blocks.end, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % query_blocks.end;
        backward.run(i / query_blocks.end, {block, block + 1}, key_blocks, {true, false});
      }
    });
    parallel_ranges(batches * key_blocks.end, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % key_blocks.end;
        backward.run(i / key_blocks.end, query_blocks, {block, block + 1}, {false, true});
      }
    });
  });
}

}  // namespace sscc::rt
