#include "compiler/report/schedule.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace sscc {
namespace {

constexpr size_t most_rows = 64;  // with more ranks, one a stage
constexpr double left = 70, top = 30, width = 1200, row_height = 24, row_gap = 4;

// The same digits on every machine.
std::string number(double value) {
  char text[32];
  snprintf(text, sizeof text, "%.3f", value);
  return text;
}

const ProgramSegment& segment_of(const Programs& programs, const Prediction::Bar& bar) {
  const Body& body = programs.bodies[static_cast<size_t>(programs.ranks[static_cast<size_t>(bar.rank)].body)];
  return body.segments[static_cast<size_t>(bar.segment)];
}

bool is_of_micro_batch(const std::string& segment) { return segment != "prologue" && segment != "epilogue"; }

std::string label_of(const Programs& programs, const Prediction::Bar& bar) {
  const std::string& name = segment_of(programs, bar).name;
  return is_of_micro_batch(name) ? name + std::to_string(bar.micro_batch) : name;
}

const char* color_of(const std::string& segment) {
  if (!is_of_micro_batch(segment)) return "#b0b0b0";
  return segment.back() == 'F' ? "#8db8e8" : "#8fd19e";
}

std::vector<int32_t> rows_of(const Programs& programs) {
  std::vector<int32_t> rows;
  std::set<int32_t> stages;
  for (const RankProgram& rank : programs.ranks)
    if (programs.ranks.size() <= most_rows || stages.insert(rank.stage).second) rows.push_back(rank.rank);
  return rows;
}

// As text of an XML element.
std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return result;
}

}  // namespace

std::string schedule_svg(const Programs& programs, const Prediction& prediction) {
  const std::vector<int32_t> rows = rows_of(programs);
  std::map<int32_t, size_t> row_of;
  for (const int32_t rank : rows) row_of.try_emplace(rank, row_of.size());
  const double scale = prediction.makespan_seconds > 0 ? width / prediction.makespan_seconds : 0;
  const double height = top + static_cast<double>(rows.size()) * (row_height + row_gap);

  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(left + width + 10) + "\" height=\"" + number(height + 10) +
                    "\" font-family=\"sans-serif\" font-size=\"11\">\n";
  svg += "<text x=\"" + number(left) + "\" y=\"18\">" + number(prediction.makespan_seconds * 1e3) + " ms on " + escaped(prediction.device) +
         ", bubble " + number(prediction.bubble_fraction * 100) + " %</text>\n";
  for (const int32_t rank : rows) {
    const double y = top + static_cast<double>(row_of[rank]) * (row_height + row_gap);
    svg += "<text x=\"4\" y=\"" + number(y + 16) + "\">rank " + std::to_string(rank) + "</text>\n";
    svg += "<rect x=\"" + number(left) + "\" y=\"" + number(y) + "\" width=\"" + number(width) + "\" height=\"" + number(row_height) +
           "\" fill=\"#f4f4f4\"/>\n";
  }
  for (const Prediction::Bar& bar : prediction.bars) {
    const auto row = row_of.find(bar.rank);
    if (row == row_of.end() || bar.end <= bar.begin) continue;
    const double x = left + bar.begin * scale, y = top + static_cast<double>(row->second) * (row_height + row_gap),
                 length = (bar.end - bar.begin) * scale;
    const std::string label = label_of(programs, bar);
    svg += "<g><title>rank " + std::to_string(bar.rank) + ", " + label + ": " + number(bar.begin * 1e3) + " to " + number(bar.end * 1e3) +
           " ms</title><rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(length) + "\" height=\"" + number(row_height) +
           "\" fill=\"" + color_of(segment_of(programs, bar).name) + "\" stroke=\"#ffffff\"/>";
    if (length > 8 * static_cast<double>(label.size())) svg += "<text x=\"" + number(x + 3) + "\" y=\"" + number(y + 16) + "\">" + label + "</text>";
    svg += "</g>\n";
  }
  return svg + "</svg>\n";
}

std::string trace_json(const Programs& programs, const Prediction& prediction) {
  using Json = nlohmann::ordered_json;
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  auto add = [&, first = true](const Json& event) mutable {
    text += (first ? "\n" : ",\n") + event.dump();
    first = false;
  };
  for (const RankProgram& rank : programs.ranks) {
    const std::string name = "rank " + std::to_string(rank.rank) + ", stage " + std::to_string(rank.stage);
    add({{"name", "thread_name"}, {"ph", "M"}, {"pid", 0}, {"tid", rank.rank}, {"args", {{"name", name}}}});
  }
  for (const Prediction::Bar& bar : prediction.bars) {
    const std::string& segment = segment_of(programs, bar).name;
    const auto microseconds = [](double seconds) { return Json::parse(number(seconds * 1e6)); };
    Json event = {{"name", label_of(programs, bar)}, {"cat", segment}, {"ph", "X"}, {"pid", 0}, {"tid", bar.rank}};
    event["ts"] = microseconds(bar.begin);
    event["dur"] = microseconds(bar.end - bar.begin);
    if (is_of_micro_batch(segment)) event["args"] = {{"micro_batch", bar.micro_batch}};
    add(event);
  }
  return text + "\n]}\n";
}

}  // namespace sscc
