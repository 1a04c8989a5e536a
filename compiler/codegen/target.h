// What programs are emitted for.
#pragma once

namespace sscc {

enum class Target { cpu, cuda };
inline const char* name_of(Target target) { return target == Target::cpu ? "cpu" : "cuda"; }

}  // namespace sscc
