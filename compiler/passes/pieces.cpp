#include "compiler/passes/pieces.h"

#include <numeric>

namespace sscc {

std::vector<int64_t> even_cuts(int64_t begin, int64_t end, int64_t n, int64_t length, const std::vector<int64_t>& units) {
  std::vector<int64_t> cuts;
  const int64_t total = end - begin;
  for (int64_t u : units) {
    const int64_t block = length / u;
    if (begin % block == 0 && total % block == 0 && (total / block) % n == 0) {
      for (int64_t k = 0; k <= n; ++k) cuts.push_back(begin + total / n * k);
      return cuts;
    }
  }
  for (int64_t u : units) {
    const int64_t block = length / u;
    if (begin % block != 0 || total % block != 0) continue;
    const int64_t blocks = total / block;
    if (blocks <= 1 || n % blocks != 0) continue;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t each = n / blocks;
      for (int64_t k = 0; k < each; ++k) cuts.push_back(begin + b * block + block / each * k + std::min(k, block % each));
    }
    cuts.push_back(end);
    return cuts;
  }
  for (int64_t k = 0; k <= n; ++k) cuts.push_back(begin + total / n * k + std::min(k, total % n));
  return cuts;
}

std::vector<int64_t> proportional_cuts(int64_t begin, int64_t end, const std::vector<int64_t>& sizes) {
  const int64_t sum = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<int64_t> cuts = {begin};
  int64_t seen = 0;
  for (int64_t size : sizes) {
    seen += size;
    cuts.push_back(begin + ((end - begin) * seen + sum / 2) / sum);
  }
  cuts.back() = end;
  return cuts;
}

}  // namespace sscc
