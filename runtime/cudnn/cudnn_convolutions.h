// Convolutions by cuDNN: for programs that have any, and are linked with it.
#pragma once

namespace sscc::rt {

// Gives the device that was started cuDNN for its convolutions, until it is stopped. Throws EnvironmentFailure where cuDNN does not start.
void use_cudnn();

}  // namespace sscc::rt
