#include "descriptor.h"

#include <string>

#include "sscc_rt/rank.h"

namespace sscc::rt {

bool is_refusal(cudnnStatus_t status) {
  return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_BAD_PARAM || CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED;
}

void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  const std::string message = std::string("cannot ") + what + ": " + cudnnGetErrorString(status);
  if (is_refusal(status)) throw std::logic_error(message);
  throw EnvironmentFailure(message);
}

}  // namespace sscc::rt
