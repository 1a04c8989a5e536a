// In place of NVTX's header: ranges have to be nested rightly, and nobody looks at them.
#pragma once

int nvtxRangePushA(const char* text);
int nvtxRangePop();  // negative: none was open
