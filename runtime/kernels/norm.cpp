// Norms. A group is the elements that share a mean: a row of a layer norm, a channel of a batch norm. It is walked in runs, rows of memory as long as
// they can be: a layer norm's group is one run, a batch norm's is one for each sample. Where groups lie side by side instead (a batch norm without
// space), many are made at once, their elements a row of memory. Groups that lie in neither way are copied first.
#include <cmath>
#include <type_traits>

#include "dispatch.h"
#include "norm_operands.h"
#include "rows.h"
#include "sscc_rt/kernels.h"
#include "widened.h"

namespace sscc::rt {
namespace {

template <class T>
T* at(const Tensor& view, int64_t offset = 0) {
  return static_cast<T*>(view.data) + offset;
}
template <class T>
constexpr T zero = 0;
template <class T>
constexpr T one = 1;
// Where an operand is left out, all its elements are this one.
template <class T>
const T* at_or(const T& constant, const Tensor& view, int64_t offset) {
  return view.data ? at<T>(view, offset) : &constant;
}

// -- walks ----------------------------------------------------------------------------------------------------------------------------------------

// Steps that the compiler knows.
using Never = std::integral_constant<int64_t, 0>;
using Always = std::integral_constant<int64_t, 1>;
template <class Work>
void with_step(int64_t step, const Work& work) {
  if (step == 1) return work(Always());
  if (step == 0) return work(Never());
  work(step);
}

// Along the rows of a loop, the first operands lie densely.
bool lies_in_rows(const StridedLoop& loop, int operands) {
  for (int i = 0; i < operands; ++i)
    if (loop.row_stride(i) != 1) return false;
  return true;
}

// The groups of x. Of the views, all of x's dims, `wide` are walked element by element; then comes one with the dims of the weights.
struct Groups {
  StridedLoop kept;      // the views, rstd, mean
  StridedLoop elements;  // of a group; the views
  bool in_place, side_by_side;
  std::vector<RowShape> shapes;  // of the wide views, where a group is copied
  double count;

  Groups(uint32_t over, std::vector<Tensor> views, const Tensor& rstd, const Tensor& mean) : elements(loop_over(over, views)) {
    const int wide = static_cast<int>(views.size()) - 1;
    std::vector<Tensor> all = views;
    for (const Tensor& statistic : {rstd, mean}) all.push_back(stretched(statistic, ~over, views[0]));
    kept = loop_over(~over, all);
    in_place = lies_in_rows(elements, wide);
    side_by_side = !in_place && lies_in_rows(kept, wide);
    count = static_cast<double>(size());
    if (in_place || side_by_side) return;
    for (int i = 0; i < wide; ++i) {
      Tensor& view = views[static_cast<size_t>(i)];
      const Tensor group = selected(view, over);
      shapes.emplace_back(group, 0, group.rank);
      int64_t stride = 1;
      for (int d = view.rank; d-- > 0;) {
        if ((over >> d & 1) == 0) continue;
        view.strides[d] = stride;
        stride *= view.dims[d];
      }
    }
    elements = loop_over(over, views);
  }

  int64_t size() const { return elements.rows() * elements.row_length(); }
  // run(offsets), in order.
  template <class Run>
  void for_each_run(const Run& run) const {
    static constexpr StridedLoop::Offsets here{};
    if (elements.rank == 1) return run(here);
    elements.for_rows(0, elements.rows(), run);
  }
  // element(offsets), in order.
  template <class Element>
  void for_each_element(const Element& element) const {
    elements.for_rows(0, elements.rows(), [&](auto offsets) {
      for (int64_t i = 0; i < elements.row_length(); ++i) {
        element(offsets);
        for (int k = 0; k < elements.operands; ++k) offsets[static_cast<size_t>(k)] += elements.row_stride(k);
      }
    });
  }
  // On several threads: make_tile(offsets, width) for so many groups that lie side by side, or make_group(offsets) for each.
  static constexpr int64_t tile = 256;
  template <class Group, class Tile>
  void for_each(const Group& make_group, const Tile& make_tile) const {
    if (!side_by_side) return for_each_position(kept, size(), make_group);
    kept.parallel_for_rows(std::max<int64_t>(1, 8192 / std::max<int64_t>(size(), 1)), [&](auto offsets, int64_t n) {
      for (int64_t begin = 0; begin < n; begin += tile) {
        make_tile(offsets, std::min(tile, n - begin));
        for (int k = 0; k < kept.operands; ++k) offsets[static_cast<size_t>(k)] += tile * kept.row_stride(k);
      }
    });
  }

  // As RowShape's, of the group that begins at `base`.
  template <class T>
  const T* read(size_t view, const T* base, std::vector<T>& scratch) const {
    return in_place ? base : shapes[view].read(base, scratch);
  }
  template <class T>
  T* open(size_t view, T* base, std::vector<T>& scratch) const {
    return in_place ? base : shapes[view].open(base, scratch);
  }
  template <class T>
  void close(size_t view, T* base, const std::vector<T>& scratch) const {
    if (!in_place) shapes[view].close(base, scratch);
  }
};

// Scale and bias where both lie densely.
template <class T>
class Weights {
 public:
  Weights(const Tensor& scale, const Tensor& bias) : scale_(packed(scale, scale_memory_)), bias_(packed(bias, bias_memory_)) {}
  const Tensor& scale() const { return scale_; }
  const T* scale(int64_t offset) const { return at_or(one<T>, scale_, offset); }
  const T* bias(int64_t offset) const { return bias_.data ? at<const T>(bias_, offset) : nullptr; }

 private:
  std::vector<T> scale_memory_, bias_memory_;
  const Tensor scale_, bias_;
};

// -- sums and results along a row -----------------------------------------------------------------------------------------------------------------

// Vectors of T add up a chunk; chunks are added up in double, for a group may be a channel of a whole batch. of_chunk(begin, length) is a sum of T.
constexpr int64_t chunk = 4096;
template <class Total, class OfChunk>
Total total_of(int64_t n, const OfChunk& of_chunk) {
  Total total{};
  for (int64_t begin = 0; begin < n; begin += chunk) total += of_chunk(begin, std::min(chunk, n - begin));
  return total;
}

template <class T>
T sum_of(const T* in, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += in[i];
  return sum;
}
template <class T>
T squares_of(const T* in, T mean, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += (in[i] - mean) * (in[i] - mean);
  return sum;
}

// `s`: the step of the statistics, 0 along a group, 1 across groups; `w`: that of the weights.
template <class T, class S, class W>
void write_normalised(T* __restrict out, const T* in, const T* mean, const T* rstd, S s, const T* gamma, const T* beta, W w, int64_t n) {
  if (beta) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = (in[i] - mean[i * s]) * rstd[i * s] * gamma[i * w] + beta[i * w];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = (in[i] - mean[i * s]) * rstd[i * s] * gamma[i * w];
  }
}

// Of g = dy scale, and of g xhat.
template <class T>
struct GradientSums {
  T sum = 0, dot = 0;
  template <class U>
  GradientSums& operator+=(const GradientSums<U>& more) {
    sum += static_cast<T>(more.sum);
    dot += static_cast<T>(more.dot);
    return *this;
  }
};
template <class T, class W>
GradientSums<T> gradient_sums_of(const T* d, const T* in, T mean, T rstd, const T* gamma, W w, int64_t n) {
  T sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t i = 0; i < n; ++i) {
    const T g = d[i] * gamma[i * w];
    sum += g;
    dot += g * (in[i] - mean) * rstd;
  }
  return {sum, dot};
}
template <class T, class W>
void add_gradient_sums(double* __restrict sums, double* __restrict dots, const T* d, const T* in, const T* mean, const T* rstd, const T* gamma, W w,
                       int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T g = d[i] * gamma[i * w];
    sums[i] += static_cast<double>(g);
    dots[i] += static_cast<double>(g * (in[i] - mean[i]) * rstd[i]);
  }
}
template <class T, class S, class W>
void write_gradient(T* out, const T* before, const T* d, const T* in, const T* mean, const T* rstd, const T* mean_g, const T* mean_product, S s,
                    const T* gamma, W w, int64_t n) {
  if (before) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
      out[i] = before[i] + rstd[i * s] * (d[i] * gamma[i * w] - mean_g[i * s] - (in[i] - mean[i * s]) * rstd[i * s] * mean_product[i * s]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
      out[i] = rstd[i * s] * (d[i] * gamma[i * w] - mean_g[i * s] - (in[i] - mean[i * s]) * rstd[i * s] * mean_product[i * s]);
  }
}

// -- the norm -------------------------------------------------------------------------------------------------------------------------------------

template <class T>
class Norm {
 public:
  Norm(const Tensor& y, const Tensor& rstd, const Tensor& mean, const Tensor& x, const Tensor& scale, const Tensor& bias, uint32_t over,
       uint32_t along, double epsilon)
      : y_(y),
        rstd_(rstd),
        mean_(mean),
        x_(x),
        weights_(scale, bias),
        groups_(over, {y, x, stretched(weights_.scale(), along, x)}, rstd, mean),
        epsilon_(epsilon) {}

  void run() const {
    groups_.for_each([&](const auto& offset) { make_group(offset); }, [&](const auto& offset, int64_t width) { make_tile(offset, width); });
  }

 private:
  T rstd_of(T variance) const { return T(1) / std::sqrt(variance + static_cast<T>(epsilon_)); }

  void make_group(const StridedLoop::Offsets& offset) const {
    thread_local std::vector<T> x_scratch, y_scratch;
    const int64_t n = groups_.elements.row_length();
    const T* x = groups_.read(1, at<const T>(x_, offset[1]), x_scratch);
    T* y = groups_.open(0, at<T>(y_, offset[0]), y_scratch);
    const auto mean_of = [&](const auto& sum) {
      if (groups_.size() <= chunk && groups_.elements.rank == 1) return sum(x, n) / static_cast<T>(n);  // most layer norms
      double total = 0;
      groups_.for_each_run([&](const auto& run) {
        const T* in = x + run[1];
        total += total_of<double>(n, [&](int64_t begin, int64_t length) { return sum(in + begin, length); });
      });
      return static_cast<T>(total / groups_.count);
    };
    const T mean = mean_.data ? mean_of([](const T* in, int64_t length) { return sum_of(in, length); }) : T(0);
    const T rstd = rstd_of(mean_of([&](const T* in, int64_t length) { return squares_of(in, mean, length); }));
    with_step(groups_.elements.row_stride(2), [&](auto w) {
      groups_.for_each_run([&](const auto& run) {
        const int64_t weight = offset[2] + run[2];
        write_normalised(y + run[0], x + run[1], &mean, &rstd, Never(), weights_.scale(weight), weights_.bias(weight), w, n);
      });
    });
    groups_.close(0, at<T>(y_, offset[0]), y_scratch);
    *at<T>(rstd_, offset[3]) = rstd;
    if (mean_.data) *at<T>(mean_, offset[4]) = mean;
  }

  void make_tile(const StridedLoop::Offsets& offset, int64_t width) const {
    double sums[Groups::tile] = {}, squares[Groups::tile] = {};
    T mean[Groups::tile] = {}, rstd[Groups::tile];
    const T* x = at<const T>(x_, offset[1]);
    if (mean_.data) {
      groups_.for_each_element([&](const auto& element) {
        const T* in = x + element[1];
        for (int64_t i = 0; i < width; ++i) sums[i] += static_cast<double>(in[i]);
      });
    }
    for (int64_t i = 0; i < width; ++i) mean[i] = static_cast<T>(sums[i] / groups_.count);
    groups_.for_each_element([&](const auto& element) {
      const T* in = x + element[1];
      for (int64_t i = 0; i < width; ++i) squares[i] += static_cast<double>((in[i] - mean[i]) * (in[i] - mean[i]));
    });
    for (int64_t i = 0; i < width; ++i) rstd[i] = rstd_of(static_cast<T>(squares[i] / groups_.count));
    with_step(groups_.kept.row_stride(2), [&](auto w) {
      groups_.for_each_element([&](const auto& element) {
        const int64_t weight = offset[2] + element[2];
        write_normalised(at<T>(y_, offset[0] + element[0]), x + element[1], mean, rstd, Always(), weights_.scale(weight), weights_.bias(weight), w,
                         width);
      });
    });
    for (int64_t i = 0; i < width; ++i) *at<T>(rstd_, offset[3] + i * groups_.kept.row_stride(3)) = rstd[i];
    for (int64_t i = 0; mean_.data && i < width; ++i) *at<T>(mean_, offset[4] + i * groups_.kept.row_stride(4)) = mean[i];
  }

  const Tensor &y_, &rstd_, &mean_, &x_;
  const Weights<T> weights_;
  const Groups groups_;  // y, x, weights
  const double epsilon_;
};

// -- gradient of x --------------------------------------------------------------------------------------------------------------------------------

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy scale; what is not centred has no mean(g).
template <class T>
class Gradient {
 public:
  Gradient(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, const Tensor& scale, uint32_t over,
           uint32_t along, bool accumulate)
      : dx_(dx),
        dy_(dy),
        x_(x),
        rstd_(rstd),
        mean_(mean),
        weights_(scale, {}),
        groups_(over, {dx, dy, x, stretched(weights_.scale(), along, x)}, rstd, mean),
        accumulate_(accumulate) {}

  void run() const {
    groups_.for_each([&](const auto& offset) { make_group(offset); }, [&](const auto& offset, int64_t width) { make_tile(offset, width); });
  }

 private:
  T mean_of(double sum) const { return static_cast<T>(sum / groups_.count); }

  void make_group(const StridedLoop::Offsets& offset) const {
    thread_local std::vector<T> x_scratch, dy_scratch, dx_scratch, old_scratch;
    const int64_t n = groups_.elements.row_length();
    const T* x = groups_.read(2, at<const T>(x_, offset[2]), x_scratch);
    const T* dy = groups_.read(1, at<const T>(dy_, offset[1]), dy_scratch);
    const T* old = accumulate_ ? groups_.read(0, at<const T>(dx_, offset[0]), old_scratch) : nullptr;
    T* dx = groups_.open(0, at<T>(dx_, offset[0]), dx_scratch);
    const T rstd = *at<const T>(rstd_, offset[4]), mean = *at_or(zero<T>, mean_, offset[5]);
    with_step(groups_.elements.row_stride(3), [&](auto w) {
      GradientSums<double> sums;
      groups_.for_each_run([&](const auto& run) {
        const T *d = dy + run[1], *in = x + run[2], *gamma = weights_.scale(offset[3] + run[3]);
        sums += total_of<GradientSums<double>>(
            n, [&](int64_t begin, int64_t length) { return gradient_sums_of(d + begin, in + begin, mean, rstd, gamma + begin * w, w, length); });
      });
      const T mean_g = mean_.data ? mean_of(sums.sum) : T(0), mean_product = mean_of(sums.dot);
      groups_.for_each_run([&](const auto& run) {
        write_gradient(dx + run[0], old ? old + run[0] : nullptr, dy + run[1], x + run[2], &mean, &rstd, &mean_g, &mean_product, Never(),
                       weights_.scale(offset[3] + run[3]), w, n);
      });
    });
    groups_.close(0, at<T>(dx_, offset[0]), dx_scratch);
  }

  void make_tile(const StridedLoop::Offsets& offset, int64_t width) const {
    double sums[Groups::tile] = {}, dots[Groups::tile] = {};
    T mean[Groups::tile] = {}, rstd[Groups::tile], mean_g[Groups::tile] = {}, mean_product[Groups::tile];
    for (int64_t i = 0; i < width; ++i) rstd[i] = *at<const T>(rstd_, offset[4] + i * groups_.kept.row_stride(4));
    for (int64_t i = 0; mean_.data && i < width; ++i) mean[i] = *at<const T>(mean_, offset[5] + i * groups_.kept.row_stride(5));
    const T *x = at<const T>(x_, offset[2]), *dy = at<const T>(dy_, offset[1]);
    with_step(groups_.kept.row_stride(3), [&](auto w) {
      groups_.for_each_element([&](const auto& element) {
        add_gradient_sums(sums, dots, dy + element[1], x + element[2], mean, rstd, weights_.scale(offset[3] + element[3]), w, width);
      });
      for (int64_t i = 0; mean_.data && i < width; ++i) mean_g[i] = mean_of(sums[i]);
      for (int64_t i = 0; i < width; ++i) mean_product[i] = mean_of(dots[i]);
      groups_.for_each_element([&](const auto& element) {
        T* dx = at<T>(dx_, offset[0] + element[0]);
        write_gradient(dx, accumulate_ ? dx : nullptr, dy + element[1], x + element[2], mean, rstd, mean_g, mean_product, Always(),
                       weights_.scale(offset[3] + element[3]), w, width);
      });
    });
  }

  const Tensor &dx_, &dy_, &x_, &rstd_, &mean_;
  const Weights<T> weights_;
  const Groups groups_;  // dx, dy, x, weights
  const bool accumulate_;
};

// -- gradients of scale and bias ------------------------------------------------------------------------------------------------------------------

// Each of their elements is a sum over the dimensions that they have not. Where their elements lie side by side in x (layer norm), rows are added to
// rows of sums, else (batch norm) rows are added up. One thread makes a sum, in the order of the rows.
template <class T>
class ScaleGradient {
 public:
  ScaleGradient(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, uint32_t over,
                uint32_t along, bool accumulate)
      : dscale_(dscale), dbias_(dbias), dy_(dy), x_(x), rstd_(rstd), mean_(mean), accumulate_(accumulate) {
    const Tensor r = stretched(rstd, ~over, x), m = stretched(mean, ~over, x);
    results_ = loop_over(along, {dy, x, r, m, stretched(dscale, along, x), stretched(dbias, along, x)});
    summed_ = loop_over(~along, {dy, x, r, m});
  }

  void run() const {
    const bool in_rows = lies_in_rows(summed_, 2);
    if (!in_rows && lies_in_rows(results_, 2)) return by_columns();
    const bool has_statistics_of_rows = in_rows && summed_.row_stride(2) == 0 && summed_.row_stride(3) == 0;
    for_each_position(results_, summed_.rows() * summed_.row_length(), [&](const auto& of_result) {
      double scale = 0, bias = 0;
      summed_.for_rows(0, summed_.rows(), [&](const auto& of_row) {
        const T *d = at<T>(dy_, of_result[0] + of_row[0]), *in = at<T>(x_, of_result[1] + of_row[1]);
        const T *r = at<T>(rstd_, of_result[2] + of_row[2]), *m = at_or(zero<T>, mean_, of_result[3] + of_row[3]);
        if (has_statistics_of_rows)
          add_run(d, in, *r, *m, scale, bias);
        else
          add_row(d, in, r, m, scale, bias);
      });
      write(of_result, 0, scale, bias);
    });
  }

 private:
  void add_run(const T* d, const T* in, T r, T m, double& scale, double& bias) const {
    const auto sums = total_of<GradientSums<double>>(
        summed_.row_length(), [&](int64_t begin, int64_t length) { return gradient_sums_of(d + begin, in + begin, m, r, &one<T>, Never(), length); });
    scale += sums.dot;
    bias += sums.sum;
  }
  void add_row(const T* d, const T* in, const T* r, const T* m, double& scale, double& bias) const {
    for (int64_t i = 0; i < summed_.row_length(); ++i) {
      const T value = d[i * summed_.row_stride(0)];
      scale += static_cast<double>(value * (in[i * summed_.row_stride(1)] - m[i * summed_.row_stride(3)]) * r[i * summed_.row_stride(2)]);
      bias += static_cast<double>(value);
    }
  }

  // rstd_at(c), mean_at(c): of column c.
  template <class RstdAt, class MeanAt>
  static void add_row_to_sums(double* scale, double* bias, const T* d, const T* in, const RstdAt& rstd_at, const MeanAt& mean_at, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      scale[c] += static_cast<double>(d[c] * (in[c] - mean_at(c)) * rstd_at(c));
      bias[c] += static_cast<double>(d[c]);
    }
  }
  void by_columns() const {
    results_.parallel_for_rows(64, [&](const auto& of_result, int64_t n) {
      std::vector<double> scale_sums(static_cast<size_t>(n)), bias_sums(static_cast<size_t>(n));
      double *scale = scale_sums.data(), *bias = bias_sums.data();
      const int64_t of_r = results_.row_stride(2), of_m = results_.row_stride(3);
      const bool has_statistics_of_rows = of_r == 0 && of_m == 0;
      summed_.for_rows(0, summed_.rows(), [&](const auto& of_row) {
        const T *d = at<T>(dy_, of_result[0] + of_row[0]), *in = at<T>(x_, of_result[1] + of_row[1]);
        const T *r = at<T>(rstd_, of_result[2] + of_row[2]), *m = at_or(zero<T>, mean_, of_result[3] + of_row[3]);
        for (int64_t row = 0; row < summed_.row_length(); ++row) {
          if (has_statistics_of_rows)
            add_row_to_sums(
                scale, bias, d, in, [rstd = *r](int64_t) { return rstd; }, [mean = *m](int64_t) { return mean; }, n);
          else
            add_row_to_sums(
                scale, bias, d, in, [=](int64_t c) { return r[c * of_r]; }, [=](int64_t c) { return m[c * of_m]; }, n);
          d += summed_.row_stride(0), in += summed_.row_stride(1), r += summed_.row_stride(2), m += summed_.row_stride(3);
        }
      });
      for (int64_t c = 0; c < n; ++c) write(of_result, c, scale[c], bias[c]);
    });
  }

  void write(const StridedLoop::Offsets& of_result, int64_t column, double scale, double bias) const {
    const auto add = [&](T& to, double sum) { to = static_cast<T>(sum) + (accumulate_ ? to : T(0)); };
    add(*at<T>(dscale_, of_result[4] + column * results_.row_stride(4)), scale);
    if (dbias_.data) add(*at<T>(dbias_, of_result[5] + column * results_.row_stride(5)), bias);
  }

  const Tensor &dscale_, &dbias_, &dy_, &x_, &rstd_, &mean_;
  const bool accumulate_;
  StridedLoop results_;  // dy, x, rstd, mean, dscale, dbias
  StridedLoop summed_;   // dy, x, rstd, mean
};

}  // namespace

void norm(const Tensor& y, const Tensor& rstd, const Tensor& mean, const Tensor& x, const Tensor& scale, const Tensor& bias, uint32_t over,
          uint32_t along, double epsilon) {
  if (is_small(y.dtype)) return widened([&](Wide& wide) { norm(wide.out(y), rstd, mean, wide.in(x), scale, bias, over, along, epsilon); });
  expect_type("norm", y.dtype, {x, rstd, mean, scale, bias});
  for_float_type("norm", y.dtype, [&](auto t) { Norm<decltype(t)>(y, rstd, mean, x, scale, bias, over, along, epsilon).run(); });
}

void norm_grad(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, const Tensor& scale, uint32_t over,
               uint32_t along, bool accumulate) {
  if (is_small(dx.dtype)) {
    return widened([&](Wide& wide) { norm_grad(wide.out(dx, accumulate), wide.in(dy), wide.in(x), rstd, mean, scale, over, along, accumulate); });
  }
  expect_type("norm_grad", dx.dtype, {dy, x, rstd, mean, scale});
  for_float_type("norm_grad", dx.dtype, [&](auto t) { Gradient<decltype(t)>(dx, dy, x, rstd, mean, scale, over, along, accumulate).run(); });
}

void norm_grad_scale(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean,
                     uint32_t over, uint32_t along, bool accumulate) {
  if (is_small(x.dtype))
    return widened([&](Wide& wide) { norm_grad_scale(dscale, dbias, wide.in(dy), wide.in(x), rstd, mean, over, along, accumulate); });
  expect_type("norm_grad_scale", dscale.dtype, {dbias, dy, x, rstd, mean});
  for_float_type("norm_grad_scale", dscale.dtype,
                 [&](auto t) { ScaleGradient<decltype(t)>(dscale, dbias, dy, x, rstd, mean, over, along, accumulate).run(); });
}

}  // namespace sscc::rt
