// Importers: convolution and pooling. Their attributes say where windows lie over space; kernels take that as a Window (sscc_rt/kernels.h).
#include <algorithm>

#include "compiler/frontend/importers.h"
#include "compiler/ops/windows.h"
#include "compiler/support/strings.h"

namespace sscc::importers {
namespace {

// Windows over the dimensions of space of a node's first input, [batch, channels, space...].
class Windows {
 public:
  // `kernel`: lengths of the kernel.
  Windows(const Node& n, llvm::ArrayRef<int64_t> kernel) : n_(n), space_(n.shape(0).size() - 2) {
    copy_to(window.kernel, kernel, 1, "the kernel");
    copy_to(window.stride, n.integers("strides").value_or(std::vector<int64_t>()), 1, "strides");
    copy_to(window.dilation, n.integers("dilations").value_or(std::vector<int64_t>()), 1, "dilations");
    auto_pad_ = n.text("auto_pad", "NOTSET");
    if (!llvm::is_contained({"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"}, auto_pad_)) throw BadNode{"auto_pad " + quoted(auto_pad_)};
    std::vector<int64_t> pads = n.integers("pads").value_or(std::vector<int64_t>(2 * space_, 0));
    if (auto_pad_ != "NOTSET") pads.assign(2 * space_, 0);
    if (pads.size() != 2 * space_) throw BadNode{"as many pads are needed as space has ends"};
    if (llvm::any_of(pads, [](int64_t pad) { return pad < 0; })) throw UnsupportedNode{n.type + " with a negative pad"};
    if (llvm::any_of(pads, [](int64_t pad) { return pad > longest; })) throw BadNode{"pads of [" + to_string(Shape(pads.begin(), pads.end())) + "]"};
    before_.assign(pads.begin(), pads.begin() + static_cast<std::ptrdiff_t>(space_));
    after_.assign(pads.begin() + static_cast<std::ptrdiff_t>(space_), pads.end());
  }

  // The input is what windows see: how many windows there are.
  Shape small() {
    Shape result;
    for (size_t d = 0; d < space_; ++d) {
      const int64_t length = n_.shape(0)[d + 2], stride = window.stride[d];
      if (is_same()) {
        const int64_t windows = (length + stride - 1) / stride;
        pad_by(d, std::max<int64_t>(0, (windows - 1) * stride + extent(d) - length), auto_pad_ == "SAME_UPPER");
      }
      const int64_t room = length + before_[d] + after_[d] - extent(d);
      if (room < 0)
        throw BadNode{"a kernel of " + std::to_string(extent(d)) + " does not fit into " + std::to_string(room + extent(d)) + " positions"};
      const bool rounds_up = n_.integer("ceil_mode", 0) != 0;
      int64_t windows = (room + (rounds_up ? stride - 1 : 0)) / stride + 1;
      if (rounds_up && (windows - 1) * stride >= length + before_[d]) --windows;  // it would begin behind everything
      result.push_back(windows);
    }
    for (size_t d = 0; d < space_; ++d) finish(d, result[d], n_.shape(0)[d + 2]);
    return result;
  }

  // The input has a position for each window: how long is what they see.
  Shape large() {
    const std::vector<int64_t> more = n_.integers("output_padding").value_or(std::vector<int64_t>(space_, 0));
    const auto told = n_.integers("output_shape");
    if (more.size() != space_ || (told && told->size() != space_)) throw BadNode{"an attribute has another number of dimensions than space"};
    for (size_t d = 0; d < space_; ++d)
      if (more[d] < 0 || more[d] > longest || (told && ((*told)[d] < 1 || (*told)[d] > longest))) throw BadNode{"output_padding or output_shape"};
    Shape result;
    for (size_t d = 0; d < space_; ++d) {
      const int64_t windows = n_.shape(0)[d + 2], all = (windows - 1) * window.stride[d] + extent(d) + more[d];
      if (told || is_same()) {
        const int64_t length = told ? (*told)[d] : windows * window.stride[d];
        if (length > all) throw UnsupportedNode{"ConvTranspose to an output that is longer than its windows reach"};
        pad_by(d, all - length, auto_pad_ == "SAME_UPPER");
      }
      result.push_back(all - before_[d] - after_[d]);
      if (result.back() < 1) throw BadNode{"padding leaves nothing"};
    }
    for (size_t d = 0; d < space_; ++d) finish(d, n_.shape(0)[d + 2], result[d]);
    return result;
  }

  // Do all windows lie within the padded input?
  bool is_covered_by_pads(const Shape& small) const {
    for (size_t d = 0; d < space_; ++d)
      if ((small[d] - 1) * window.stride[d] + extent(d) > n_.shape(0)[d + 2] + before_[d] + after_[d]) return false;
    return true;
  }

  // How many positions of the input each window sees along dimension d.
  std::vector<int64_t> seen(size_t d, int64_t windows) const {
    std::vector<int64_t> counts;
    for (int64_t y = 0; y < windows; ++y) {
      const int64_t begin = y * window.stride[d] - before_[d], dilation = window.dilation[d], behind = n_.shape(0)[d + 2] - begin;
      const int64_t first = begin < 0 ? (-begin + dilation - 1) / dilation : 0, last = behind > 0 ? (behind + dilation - 1) / dilation : 0;
      counts.push_back(std::max<int64_t>(0, std::min(last, window.kernel[d]) - first));
    }
    return counts;
  }

  rt::Window window;

 private:
  static constexpr int64_t longest = (int64_t{1} << 31) - 1;

  bool is_same() const { return auto_pad_.starts_with("SAME"); }
  int64_t extent(size_t d) const { return (window.kernel[d] - 1) * window.dilation[d] + 1; }
  void pad_by(size_t d, int64_t total, bool more_behind) {
    before_[d] = more_behind ? total / 2 : total - total / 2;
    after_[d] = total - before_[d];
  }
  void copy_to(int64_t (&to)[rt::max_space], llvm::ArrayRef<int64_t> from, int64_t least, const char* what) const {
    if (from.empty()) return;
    if (from.size() != space_) throw BadNode{std::string(what) + " and space differ in their number of dimensions"};
    for (size_t d = 0; d < space_; ++d) {
      if (from[d] < least || from[d] > longest) throw BadNode{std::string(what) + " of " + std::to_string(from[d])};
      to[d] = from[d];
    }
  }
  // The pads are known now. The first and the last of so many windows reach into `length` positions.
  void finish(size_t d, int64_t windows, int64_t length) {
    window.pad[d] = before_[d];
    if (before_[d] >= extent(d) || (windows - 1) * window.stride[d] - before_[d] >= length)
      throw UnsupportedNode{n_.type + " with windows that see nothing but padding"};
  }

  const Node& n_;
  size_t space_;
  std::string auto_pad_;
  std::vector<int64_t> before_, after_;
};

void check_space(const Node& n, std::initializer_list<size_t> floats) {
  n.expect_floats(floats);
  const size_t rank = n.shape(0).size();
  if (rank < 3) throw BadNode{n.type + " needs [batch, channels, space...]"};
  if (rank > 2 + static_cast<size_t>(rt::max_space)) throw UnsupportedNode{n.type + " over " + std::to_string(rank - 2) + " dimensions of space"};
}

// [batch, channels, space...]
Shape with_space(const Node& n, int64_t channels, const Shape& space) {
  Shape shape = {n.shape(0)[0], channels};
  shape.append(space.begin(), space.end());
  return shape;
}

llvm::SmallVector<int64_t, 3> kernel_of_pool(const Node& n) {
  const auto kernel = n.integers("kernel_shape");
  if (!kernel || kernel->empty()) throw BadNode{n.type + " without kernel_shape"};
  return {kernel->begin(), kernel->end()};
}
// The shape of a pool's result, if every window sees something.
Shape pooled(const Node& n, Windows& windows) {
  const Shape small = with_space(n, n.shape(0)[1], windows.small());
  for (size_t d = 0; d + 2 < small.size(); ++d)
    if (!all_see(windows.window, d, small[d + 2], n.shape(0)[d + 2])) throw UnsupportedNode{n.type + " with windows that see nothing but padding"};
  return small;
}

// The weight's kernel, if weight, groups and channels agree. `dim`: of the weight, which is divided into groups.
llvm::SmallVector<int64_t, 3> kernel_of(const Node& n, size_t dim) {
  const Shape weight = n.shape(1);
  const int64_t groups = n.integer("group", 1), channels = n.shape(0)[1];
  if (weight.size() != n.shape(0).size()) throw BadNode{n.type + " with a weight of shape [" + to_string(weight) + "]"};
  const bool agree = dim == 0 ? weight[1] * groups == channels : weight[0] == channels;
  if (groups < 1 || weight[0] % groups != 0 || !agree)
    throw BadNode{n.type + " of " + std::to_string(channels) + " channels in " + std::to_string(groups) + " groups with a weight of shape [" +
                  to_string(weight) + "]"};
  const llvm::SmallVector<int64_t, 3> kernel(weight.begin() + 2, weight.end());
  if (const auto told = n.integers("kernel_shape"); told && llvm::ArrayRef<int64_t>(*told) != llvm::ArrayRef<int64_t>(kernel))
    throw BadNode{"kernel_shape contradicts the weight's shape [" + to_string(weight) + "]"};
  return kernel;
}

// result = the convolution, plus a bias for each channel.
template <class Convolve>
void give_with_bias(Node& n, int64_t channels, const Convolve& convolve) {
  Builder b = n.builder();
  if (!n.has(2)) {
    n.give(convolve(b.named(n.output_name(0))));
    return;
  }
  if (n.shape(2) != Shape{channels}) throw BadNode{n.type + " with a bias of shape [" + to_string(n.shape(2)) + "]"};
  const TensorId product = convolve(b);
  Shape along(n.shape(0).size() - 1, 1);
  along[0] = channels;
  const TensorId bias = n.builder().reshape(n.tensor(2), along);
  n.give(n.builder().named(n.output_name(0)).pointwise(Scalar::add, {product, bias}));
}

}  // namespace

void convolution(Node& n) {
  check_space(n, {0, 1, 2});
  Windows windows(n, kernel_of(n, 0));
  const Shape small = with_space(n, n.shape(1)[0], windows.small());
  give_with_bias(n, small[1], [&](Builder& b) { return b.convolve(n.tensor(0), n.tensor(1), small, windows.window); });
}

void convolution_transposed(Node& n) {
  check_space(n, {0, 1, 2});
  Windows windows(n, kernel_of(n, 1));
  const Shape large = with_space(n, n.shape(1)[1] * n.integer("group", 1), windows.large());
  give_with_bias(n, large[1], [&](Builder& b) { return b.convolve_transposed(n.tensor(0), n.tensor(1), large, windows.window); });
}

void max_pool(Node& n) {
  check_space(n, {0});
  if (n.output_count() > 1) throw UnsupportedNode{"MaxPool with its second output"};
  Windows windows(n, kernel_of_pool(n));
  int64_t positions = 1;
  for (const int64_t length : windows.window.kernel)
    if ((positions *= length) > 256) throw UnsupportedNode{"MaxPool whose kernel has more than 256 positions"};
  const Shape small = pooled(n, windows);
  n.give(n.builder().named(n.output_name(0)).max_pool(n.tensor(0), small, windows.window).small);
}

// A sum, times the reciprocal of how many positions were added up: of all windows one number, unless padding is not counted.
void average_pool(Node& n) {
  check_space(n, {0});
  Windows windows(n, kernel_of_pool(n));
  const Shape small = pooled(n, windows), space(small.begin() + 2, small.end());
  const bool counts_padding = n.integer("count_include_pad", 0) != 0;
  if (counts_padding && !windows.is_covered_by_pads(space)) throw UnsupportedNode{"AveragePool that counts padding, with windows that go beyond it"};

  double whole = 1;
  Literal scale{rt::arithmetic_type(n.dtype(0)), space, {1}};
  for (size_t d = 0; d < space.size(); ++d) {
    whole /= static_cast<double>(windows.window.kernel[d]);
    std::vector<double> finer;
    for (const double outer : scale.values)
      for (const int64_t count : windows.seen(d, space[d])) finer.push_back(outer / static_cast<double>(count));
    scale.values = std::move(finer);
  }
  const bool is_one_number = counts_padding || llvm::all_of(scale.values, [&](double each) { return each == scale.values[0]; });
  if (is_one_number) {
    n.give(n.builder().named(n.output_name(0)).sum_pool(n.tensor(0), small, windows.window, counts_padding ? whole : scale.values[0]));
    return;
  }
  const TensorId sum = n.builder().sum_pool(n.tensor(0), small, windows.window, 1);
  const TensorId each = make_constant(n.module, n.name + "/scale", scale);
  n.give(n.builder().named(n.output_name(0)).pointwise(Scalar::mul, {sum, each}));
}

void global_pool(Node& n, Join join) {
  n.expect_floats({0});
  const Shape shape = n.shape(0);
  if (shape.size() < 3) throw BadNode{n.type + " needs [batch, channels, space...]"};
  llvm::SmallVector<int, 3> space;
  double count = 1;
  for (size_t d = 2; d < shape.size(); ++d) {
    space.push_back(static_cast<int>(d));
    count *= static_cast<double>(shape[d]);
  }
  n.give(n.builder().named(n.output_name(0)).reduce(n.tensor(0), space, true, join, join == Join::sum ? 1 / count : 1));
}

}  // namespace sscc::importers
