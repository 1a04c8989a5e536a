#include "trace.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "json_text.h"
#include "message.h"

namespace sscc::rt {

// The answer that comes soonest tells most: the other clock was read in the middle of that time, give or take half of it.
Trace::Trace(ControlPlane& control) : control_(control) {
  constexpr int questions = 8;
  control_.at("", "the comparison of clocks", 0);
  if (control_.rank() != 0) {
    for (int k = 0; k < questions; ++k) {
      control_.receive_message(0);
      MessageWriter answer;
      answer.value(now());
      control_.send_message(0, answer.take());
    }
    const std::vector<std::byte> result = control_.receive_message(0);
    ahead_ = MessageReader(result).value<double>();
    return;
  }
  for (int rank = 1; rank < control_.size(); ++rank) {
    double soonest = INFINITY, ahead = 0;
    for (int k = 0; k < questions; ++k) {
      const double asked = now();
      control_.send_message(rank, {});
      const std::vector<std::byte> answer = control_.receive_message(rank);
      const double answered = now();
      if (answered - asked >= soonest) continue;
      soonest = answered - asked;
      ahead = (asked + answered) / 2 - MessageReader(answer).value<double>();
    }
    MessageWriter result;
    result.value(ahead);
    control_.send_message(rank, result.take());
  }
}

void Trace::begin_step(int64_t step) {
  step_ = step;
  step_begin_ = now();
  given_.clear();
}

void Trace::at(Processor& processor, const char* segment, const char* origin, int micro_batch) {
  if (!given_.empty() && *origin != '\0') {  // the same operator goes on
    const Given& last = given_.back();
    if (last.micro_batch == micro_batch && std::strcmp(last.origin, origin) == 0 && std::strcmp(last.segment, segment) == 0) return;
  }
  given_.push_back({segment, origin, micro_batch, processor.mark()});
}

void Trace::end_step(const Processor& processor, double seconds) {
  spans_.push_back({number_of("step " + std::to_string(step_)), number_of("step"), -1, step_, step_begin_, step_begin_ + seconds});
  for (size_t i = 0; i < given_.size(); ++i) {
    const Given& given = given_[i];
    if (*given.origin == '\0') continue;
    const double begin = processor.seconds_at(given.mark), end = i + 1 < given_.size() ? processor.seconds_at(given_[i + 1].mark) : seconds;
    spans_.push_back({number_of(given.origin), number_of(given.segment), given.micro_batch, step_, step_begin_ + begin, step_begin_ + end});
  }
}

int32_t Trace::number_of(const std::string& name) {
  const auto [it, fresh] = numbers_.try_emplace(name, static_cast<int32_t>(names_.size()));
  if (fresh) names_.push_back(name);
  return it->second;
}

void Trace::write(const std::string& path) {
  control_.at("", "the collection of traces", 0);
  if (control_.rank() != 0) {
    MessageWriter message;
    message.value(names_.size());
    for (const std::string& name : names_) message.text(name);
    for (const Span& span : spans_) message.value(span);
    control_.send_message(0, message.take());
    return;
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "we"),
                                                             [](std::FILE* open) { return open ? std::fclose(open) : 0; });
  const auto print_rank = [&](int rank, const std::vector<std::string>& names, const std::vector<Span>& spans) {
    if (!file) return;
    std::fprintf(file.get(), "%s\n{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": 0, \"tid\": %d, \"args\": {\"name\": \"rank %d\"}}",
                 rank > 0 ? "," : "", rank, rank);
    for (const Span& span : spans) {
      std::fprintf(file.get(),
                   ",\n{\"name\": %s, \"cat\": %s, \"ph\": \"X\", \"pid\": 0, \"tid\": %d, \"ts\": %.3f, \"dur\": %.3f, \"args\": {\"step\": %lld",
                   json_string(names[static_cast<size_t>(span.name)]).c_str(), json_string(names[static_cast<size_t>(span.segment)]).c_str(), rank,
                   span.begin * 1e6, (span.end - span.begin) * 1e6, static_cast<long long>(span.step));
      if (span.micro_batch >= 0) std::fprintf(file.get(), ", \"micro_batch\": %d", span.micro_batch);
      std::fputs("}}", file.get());
    }
  };
  if (file) std::fputs("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [", file.get());
  print_rank(0, names_, spans_);
  for (int rank = 1; rank < control_.size(); ++rank) {
    const std::vector<std::byte> received = control_.receive_message(rank);
    MessageReader message(received);
    std::vector<std::string> names(message.value<size_t>());
    for (std::string& name : names) name = message.text();
    std::vector<Span> spans;
    while (!message.at_end()) spans.push_back(message.value<Span>());
    print_rank(rank, names, spans);
  }
  if (!file || std::fputs("\n]}\n", file.get()) < 0 || std::fflush(file.get()) != 0 || std::ferror(file.get()))
    throw EnvironmentFailure("cannot write the trace '" + path + "': " + std::strerror(errno));
}

}  // namespace sscc::rt
