// The arena as bytes with an owner. A write makes the buffer's copy, and the micro-batch where the buffer holds a value of one, the owner of the bytes
// that the view spans; a read must find that it still is. No instruction writes on another buffer that it reads, and no kernel on other elements of the same
// one; only what works element by element writes on the very elements that it reads.
#include <algorithm>
#include <map>

#include "compiler/program/check.h"
#include "compiler/program/traffic.h"
#include "compiler/program/views.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

struct Owner {
  BufferId buffer;
  int64_t copy = 0;
  int64_t micro_batch = -1;  // -1: of the whole step
  bool operator==(const Owner&) const = default;
};

class Arena {
 public:
  explicit Arena(int64_t bytes) { owners_[0] = {bytes, Owner{}}; }

  void write(int64_t begin, int64_t end, Owner owner) {
    if (const auto same = owners_.find(begin); same != owners_.end() && same->second.first == end) {  // written as it was before, for the most part
      same->second.second = owner;
      return;
    }
    cut(begin);
    cut(end);
    auto it = owners_.find(begin);
    while (it != owners_.end() && it->first < end) it = owners_.erase(it);
    owners_[begin] = {end, owner};
  }

  // The owner of a byte in [begin, end) that is not `owner`; invalid buffer and true for none.
  bool owned(int64_t begin, int64_t end, Owner owner, Owner& other) const {
    auto it = std::prev(owners_.upper_bound(begin));
    for (; it != owners_.end() && it->first < end; ++it)
      if (!(it->second.second == owner)) {
        other = it->second.second;
        return false;
      }
    return true;
  }

  // Another buffer that owns a byte in [begin, end); invalid: none does.
  BufferId intruder(int64_t begin, int64_t end, BufferId buffer) const {
    for (auto it = std::prev(owners_.upper_bound(begin)); it != owners_.end() && it->first < end; ++it)
      if (it->second.second.buffer != buffer) return it->second.second.buffer;
    return {};
  }

 private:
  void cut(int64_t at) {
    auto it = owners_.upper_bound(at);
    if (it == owners_.begin()) return;
    --it;
    if (it->first == at || it->second.first <= at) return;
    const auto [end, owner] = it->second;
    it->second.first = at;
    owners_[at] = {end, owner};
  }
  std::map<int64_t, std::pair<int64_t, Owner>> owners_;  // begin -> (end, owner); covers the arena without gaps
};

class Checker {
 public:
  Checker(const Body& body, Diagnostics& diagnostics) : body_(body), diagnostics_(diagnostics), arena_(body.host_begin() + body.host_bytes) {}

  bool run() {
    for (int64_t b = 0; b < body_.buffers.size(); ++b) {
      const Buffer& buffer = body_.buffers[BufferId(b)];
      const int64_t begin = buffer.on_host ? body_.host_begin() : 0, end = buffer.on_host ? begin + body_.host_bytes : body_.arena_bytes;
      if (buffer.offset < begin || buffer.offset % 64 != 0 || buffer.offset + (buffer.copies - 1) * buffer.stride + bytes(buffer) > end)
        return refuse("buffer " + quoted(buffer.name) + " lies outside " + (buffer.on_host ? "the host's memory" : "the arena"));
      if (buffer.source == Buffer::Source::none) continue;
      for (int64_t k = 0; k < buffer.copies; ++k)
        arena_.write(buffer.offset + k * buffer.stride, buffer.offset + k * buffer.stride + bytes(buffer), {BufferId(b), k, -1});
    }
    for (const ProgramSlot& slot : body_.schedule)
      for (const Instruction& i : body_.segments[static_cast<size_t>(slot.segment)].instructions) {
        if (!stays_in_one_memory(i, slot)) return false;
        for (const View& view : i.ins)
          if (!read(view, slot, i)) return false;
        for (const View& view : i.outs) {
          if (i.accumulate && !read(view, slot, i)) return false;
          if (!keeps_operands(view, slot, i)) return false;
          const auto [begin, end, owner] = span(view, slot);
          if (begin < end) arena_.write(begin, end, owner);
        }
      }
    // What is kept over steps is there at the end.
    for (int64_t b = 0; b < body_.buffers.size(); ++b) {
      const Buffer& buffer = body_.buffers[BufferId(b)];
      if (buffer.source == Buffer::Source::none || buffer.source == Buffer::Source::input || bytes(buffer) == 0) continue;
      const BufferId other = arena_.intruder(buffer.offset, buffer.offset + bytes(buffer), BufferId(b));
      if (other.valid())
        return refuse("buffer " + quoted(body_.buffers[other].name) + " lies on " + quoted(buffer.name) + ", which is kept over steps");
    }
    return true;
  }

 private:
  struct Bytes {
    int64_t begin, end;
    Owner owner;
  };
  static int64_t bytes(const Buffer& buffer) { return buffer.elements * static_cast<int64_t>(rt::size_of(buffer.dtype)); }

  Bytes span(const View& view, const ProgramSlot& slot) const {
    const Buffer& buffer = body_.buffers[view.buffer];
    const int64_t copy = slot.micro_batch % buffer.copies;
    const auto [begin, end] = bytes_of_copy(body_, view, copy);
    const bool of_micro_batch = buffer.life == Buffer::Life::micro_batch || buffer.life == Buffer::Life::segment;
    return {begin, end, {view.buffer, copy, of_micro_batch ? slot.micro_batch : -1}};
  }

  // Copies cross between the arena and the host's memory, and the run fetches values from both; nothing else reaches from one into the other.
  bool stays_in_one_memory(const Instruction& i, const ProgramSlot& slot) {
    if (i.opcode == Opcode::copy || i.opcode == Opcode::capture) return true;
    const auto is_elsewhere = [&](const View& view) { return body_.buffers[view.buffer].on_host != i.on_host; };
    const auto *in = std::find_if(i.ins.begin(), i.ins.end(), is_elsewhere), *out = std::find_if(i.outs.begin(), i.outs.end(), is_elsewhere);
    if (in == i.ins.end() && out == i.outs.end()) return true;
    const View& view = in == i.ins.end() ? *out : *in;
    return refuse(std::string(name_of(i.opcode)) + " of " + quoted(i.origin) + " (segment " + body_.segments[static_cast<size_t>(slot.segment)].name +
                  ") runs on the " + (i.on_host ? "host" : "device") + ", and buffer " + quoted(body_.buffers[view.buffer].name) + " is not there");
  }

  // What it writes lies on no other buffer that it still reads.
  bool keeps_operands(const View& written, const ProgramSlot& slot, const Instruction& i) {
    const Bytes out = span(written, slot);
    for (const View& view : i.ins) {
      const Bytes in = span(view, slot);
      if (view.buffer != written.buffer && std::max(in.begin, out.begin) < std::min(in.end, out.end))
        return refuse(std::string(name_of(i.opcode)) + " of " + quoted(i.origin) + " (segment " +
                      body_.segments[static_cast<size_t>(slot.segment)].name + ", micro-batch " + std::to_string(slot.micro_batch) +
                      ") writes buffer " + quoted(body_.buffers[written.buffer].name) + ", which lies on buffer " +
                      quoted(body_.buffers[view.buffer].name) + ", which it reads");
      const bool is_element_by_element = i.opcode == Opcode::pointwise || i.opcode == Opcode::update;
      if (view.buffer == written.buffer && !is_communication(i.opcode) && !are_apart(view, written) &&
          !(is_element_by_element && same_place(view, written)))
        return refuse(std::string(name_of(i.opcode)) + " of " + quoted(i.origin) + " (segment " +
                      body_.segments[static_cast<size_t>(slot.segment)].name + ", micro-batch " + std::to_string(slot.micro_batch) +
                      ") writes in buffer " + quoted(body_.buffers[written.buffer].name) + " what it reads there");
    }
    return true;
  }

  bool read(const View& view, const ProgramSlot& slot, const Instruction& i) {
    const auto [begin, end, owner] = span(view, slot);
    Owner other;
    if (begin >= end || arena_.owned(begin, end, owner, other)) return true;
    std::string by = "nothing was written there";
    if (other.buffer.valid()) by = "buffer " + quoted(body_.buffers[other.buffer].name) + " lies on it";
    if (other.buffer == owner.buffer) by = "micro-batch " + std::to_string(other.micro_batch) + " has written there";
    return refuse(std::string(name_of(i.opcode)) + " of " + quoted(i.origin) + " (segment " + body_.segments[static_cast<size_t>(slot.segment)].name +
                  ", micro-batch " + std::to_string(slot.micro_batch) + ") reads buffer " + quoted(body_.buffers[view.buffer].name) + ", but " + by);
  }

  bool refuse(std::string why) {
    diagnostics_.error(Code::memory_conflict, {}, std::move(why));
    return false;
  }

  const Body& body_;
  Diagnostics& diagnostics_;
  Arena arena_;
};

}  // namespace

bool check_memory(const Programs& programs, Diagnostics& diagnostics) {
  bool good = true;
  for (const Body& body : programs.bodies) good &= Checker(body, diagnostics).run();
  return good;
}

}  // namespace sscc
