#include "compiler/support/diagnostics.h"

#include <algorithm>
#include <utility>

namespace sscc {

void Diagnostics::error(Code code, Location where, std::string message, std::string advice, std::string node) {
  all_.push_back({Severity::error, code, std::move(where), std::move(node), std::move(message), std::move(advice), ""});
  ++errors_;
}

void Diagnostics::warning(const char* name, Code code, Location where, std::string message, std::string advice, std::string node) {
  if (std::find(silenced.begin(), silenced.end(), name) != silenced.end()) return;
  Severity severity = warnings_are_errors ? Severity::error : Severity::warning;
  all_.push_back({severity, code, std::move(where), std::move(node), std::move(message), std::move(advice), name});
  if (warnings_are_errors) ++errors_;
}

Diagnostics Diagnostics::same_settings() const {
  Diagnostics fresh;
  fresh.silenced = silenced;
  fresh.warnings_are_errors = warnings_are_errors;
  return fresh;
}

void Diagnostics::append(const Diagnostics& others) {
  all_.insert(all_.end(), others.all_.begin(), others.all_.end());
  errors_ += others.errors_;
}

void Diagnostics::note(Location where, std::string message) {
  all_.push_back({Severity::note, Code{}, std::move(where), "", std::move(message), "", ""});
}

namespace {

std::string painted(const std::string& text, const char* style, bool color) { return color ? std::string(style) + text + "\033[0m" : text; }

std::string severity_text(Severity severity, bool color) {
  switch (severity) {
    case Severity::error: return painted("error:", "\033[1;31m", color);
    case Severity::warning: return painted("warning:", "\033[1;35m", color);
    case Severity::note: return painted("note:", "\033[1;36m", color);
  }
  return "";
}

// "[SSC2103]", for a warning "[SSC2109, -Wreplicated]"; a note has neither.
std::string code_text(const Diagnostic& diagnostic) {
  if (diagnostic.code == Code{}) return "";
  std::string text = " [SSC" + std::to_string(static_cast<int>(diagnostic.code));
  if (!diagnostic.warning.empty()) text += (diagnostic.severity == Severity::error ? ", -Werror, -W" : ", -W") + diagnostic.warning;
  return text + "]";
}

}  // namespace

std::string to_text(const Diagnostic& diagnostic, bool color) {
  const Location& where = diagnostic.where;
  std::string position = where.file.empty() ? "sscc" : where.file;
  if (where.line > 0) position += ":" + std::to_string(where.line);
  if (where.line > 0 && where.column > 0) position += ":" + std::to_string(where.column);

  std::string text = painted(position + ":", "\033[1m", color) + " " + severity_text(diagnostic.severity, color) + " " + diagnostic.message;
  text += code_text(diagnostic);
  if (!where.pointer.empty()) text += " at " + where.pointer;
  if (!diagnostic.node.empty()) text += (where.pointer.empty() ? " at node '" : ", node '") + diagnostic.node + "'";
  if (!diagnostic.advice.empty()) text += "; " + diagnostic.advice;
  return text;
}

}  // namespace sscc
