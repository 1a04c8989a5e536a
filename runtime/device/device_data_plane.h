// A DataPlane of GPUs, with what its run needs beside the calls.
#pragma once

#include "sscc_rt/transport.h"

namespace sscc::rt {

class DeviceDataPlane : public DataPlane {
 public:
  // May a step's calls be recorded as a graph, which is launched again and again?
  virtual bool can_be_recorded() const { return true; }
  // What came since begin_step() was recorded, and is launched now: the first time, or once more.
  virtual void repeat_step() {}
  // The GPU has ended all that it was given. Does not return where that is so because a peer failed.
  virtual void all_ended() {}
};

}  // namespace sscc::rt
