#include <algorithm>
#include <map>

#include "compiler/program/check.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

constexpr size_t listed = 5;

struct Live {
  BufferId buffer;
  int64_t bytes = 0;
  int64_t first = 0, last = 0;  // instructions of the step, in the order of the schedule
};

// When each buffer of the arena holds a value: always, if files fill it or it has several copies; else from the first write of a micro-batch to its last
// use.
std::vector<Live> lives_of(const Body& body) {
  std::vector<Live> lives;
  std::map<std::pair<BufferId, int64_t>, size_t> current;  // buffer and micro-batch
  int64_t now = 0;
  for (const ProgramSlot& slot : body.schedule)
    for (const Instruction& i : body.segments[static_cast<size_t>(slot.segment)].instructions) {
      const auto touch = [&](const View& view) {
        const Buffer& buffer = body.buffers[view.buffer];
        if (buffer.on_host) return;
        const bool is_of_step = buffer.life == Buffer::Life::step || buffer.life == Buffer::Life::persistent;
        const auto [at, is_new] = current.try_emplace({view.buffer, is_of_step ? 0 : slot.micro_batch}, lives.size());
        if (is_new) lives.push_back({view.buffer, buffer.elements * static_cast<int64_t>(rt::size_of(buffer.dtype)), now, now});
        lives[at->second].last = now;
      };
      for (const View& view : i.ins) touch(view);
      for (const View& view : i.outs) touch(view);
      ++now;
    }
  for (Live& live : lives) {
    const Buffer& buffer = body.buffers[live.buffer];
    if (buffer.source == Buffer::Source::none && buffer.life != Buffer::Life::persistent) continue;
    live.first = 0;
    live.last = now;
  }
  return lives;
}

// "'w:wte.weight' 64.0 KiB, ...": the largest buffers at the moment when most bytes are live.
std::string largest_at_peak(const Body& body) {
  const std::vector<Live> lives = lives_of(body);
  std::map<int64_t, int64_t> changes;
  for (const Live& live : lives) {
    changes[live.first] += live.bytes;
    changes[live.last + 1] -= live.bytes;
  }
  int64_t bytes = 0, most = 0, peak = 0;
  for (const auto& [at, change] : changes) {
    bytes += change;
    if (bytes <= most) continue;
    most = bytes;
    peak = at;
  }
  std::map<std::string, int64_t> by_name;  // the micro-batches of an activation count together
  for (const Live& live : lives)
    if (live.first <= peak && peak <= live.last) by_name[body.buffers[live.buffer].name] += live.bytes;
  std::vector<std::pair<int64_t, std::string>> largest;
  for (const auto& [name, size] : by_name) largest.push_back({size, name});
  std::stable_sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  for (size_t i = 0; i < std::min(listed, largest.size()); ++i)
    text += (i ? ", " : "") + quoted(largest[i].second) + " " + human_bytes(largest[i].first);
  return text;
}

}  // namespace

void check_memory_limit(const Programs& programs, const std::vector<int64_t>& limits, const Location& where, Diagnostics& diagnostics) {
  if (limits.empty()) return;
  for (const RankProgram& rank : programs.ranks) {
    const Body& body = programs.bodies[static_cast<size_t>(rank.body)];
    const int64_t limit = limits.size() == 1 ? limits[0] : limits[static_cast<size_t>(rank.rank)];
    if (body.arena_bytes <= limit) continue;
    diagnostics.error(Code::memory_limit, where,
                      "rank " + std::to_string(rank.rank) + " needs " + human_bytes(body.arena_bytes) + ", the limit is " + human_bytes(limit),
                      "the largest that live at the peak: " + largest_at_peak(body));
    return;  // the others are no smaller news
  }
}

}  // namespace sscc
