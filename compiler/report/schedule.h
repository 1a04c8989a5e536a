// The predicted step for people: a drawing of who works when, and a trace for Perfetto or chrome://tracing.
#pragma once

#include <string>

#include "compiler/program/program.h"
#include "compiler/simulate/predict.h"

namespace sscc {

// A space-time diagram: a row a rank (of many ranks, the first of each stage), a bar a slot, time to the right.
std::string schedule_svg(const Programs& programs, const Prediction& prediction);

// Chrome's trace event format, a track a rank; times in microseconds of the reference device.
std::string trace_json(const Programs& programs, const Prediction& prediction);

}  // namespace sscc
