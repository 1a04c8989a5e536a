// Where a range is cut: pieces on the factor borders that suit the number of pieces (reference: axes, section 1.6).
#pragma once

#include <cstdint>
#include <vector>

namespace sscc {

// Cut points c0 = begin <= c1 .. <= cn = end of the positions [begin, end) of a range of `length` positions that has outer parts with `units` units
// (ascending, `length` among them):
//   1 the coarsest units whose number in [begin, end) n divides: equal pieces on that grid
//   2 else, if some outer part's number of units divides n: each unit cut further, alike
//   3 else as even as possible, the first pieces longer
// [48 = 3 x 4 x 4 by 2: 24, 24; 6 heads in 2 groups by 4: 2, 1, 2, 1; 37 by 2: 19, 18]
std::vector<int64_t> even_cuts(int64_t begin, int64_t end, int64_t n, int64_t length, const std::vector<int64_t>& units);

// Uneven pieces: `sizes` as proportions, exact where they add up to end - begin.
std::vector<int64_t> proportional_cuts(int64_t begin, int64_t end, const std::vector<int64_t>& sizes);

}  // namespace sscc
