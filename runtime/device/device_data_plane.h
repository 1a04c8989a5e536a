// A DataPlane of GPUs, with what its run needs beside the calls.
#pragma once

#include "sscc_rt/transport.h"

namespace sscc::rt {

class DeviceDataPlane : public DataPlane {
 public:
  // The GPU has ended all that it was given. Does not return where that is so because a peer failed.
  virtual void all_ended() {}
};

}  // namespace sscc::rt
