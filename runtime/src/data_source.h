// Where a step's inputs and labels come from: a folder of files, or numbers made up from a seed.
//
// In a folder, step K is the folder step_K with input_I.pb or input_I.npy and label_I.pb or label_I.npy (I: position among the model's inputs or
// labels), or the file step_K.safetensors with the tensors by name. Steps count from 0 without gaps; after the last they start again.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "sscc_rt/rank.h"
#include "sscc_rt/tensor_files.h"

namespace sscc::rt {

class DataSource {
 public:
  virtual ~DataSource() = default;
  virtual int64_t steps() const = 0;  // that it has; 1 if it can make any number
  // The elements of `region` of an input or label in step `step`, row-major. Throws DataError or EnvironmentFailure.
  virtual void read(int64_t step, const std::string& tensor, const Region& region, void* destination) = 0;
};

// `data`: a folder, or "synthetic". Throws DataError for a folder without steps.
std::unique_ptr<DataSource> open_data(const std::string& data, uint64_t seed, const ModelInfo& model);

}  // namespace sscc::rt
