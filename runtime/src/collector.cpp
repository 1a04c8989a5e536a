#include "collector.h"

#include <algorithm>

#include "message.h"
#include "sscc_rt/tensor_files.h"

namespace sscc::rt {

bool Collector::Whole::is_complete() const { return std::find(covered.begin(), covered.end(), false) == covered.end(); }
bool Collector::Whole::is_empty() const { return std::find(covered.begin(), covered.end(), true) == covered.end(); }

Collector::Whole Collector::collect(const FileTensor& tensor, std::span<const Block> mine) {
  place_ = "the collection of '" + tensor.name + "'";
  control_.at("", place_.c_str(), 0);
  Whole whole;
  if (control_.rank() != 0) {
    MessageWriter message;
    for (const Block& block : mine) {
      message.region(*block.region);
      message.bytes(block.data.data(), block.data.size());
    }
    control_.send_message(0, message.take());
    return whole;
  }
  const auto elements = static_cast<size_t>(elements_of(whole_region(tensor.dims)));
  whole.data.resize(elements * size_of(tensor.dtype));
  whole.covered.resize(elements);
  for (const Block& block : mine) place_region(tensor.dims, tensor.dtype, *block.region, block.data.data(), whole.data.data(), whole.covered);
  for (int rank = 1; rank < control_.size(); ++rank) {
    const std::vector<std::byte> received = control_.receive_message(rank);
    for (MessageReader message(received); !message.at_end();) {
      const Region region = message.region();
      const std::byte* data = message.bytes(static_cast<size_t>(elements_of(region)) * size_of(tensor.dtype));
      place_region(tensor.dims, tensor.dtype, region, data, whole.data.data(), whole.covered);
    }
  }
  return whole;
}

}  // namespace sscc::rt
