// Fibers: ucontext makes their stacks, setjmp and longjmp switch between them (swapcontext would ask the kernel each time). A fiber runs one thread
// after the other as long as these do not have to wait; so a kernel without barriers needs one.
#include "emulated_gpu/block.h"

#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "emulated_gpu/gpu.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulated_gpu {
namespace {

constexpr int warp_lanes = 32;
constexpr size_t stack_bytes = size_t{256} << 10, page = 4096;
constexpr int poison = 0xff;

std::string text_of(const std::source_location& where) { return std::string(where.file_name()) + ":" + std::to_string(where.line()); }
std::string text_of(const uint3& at) { return "(" + std::to_string(at.x) + " " + std::to_string(at.y) + " " + std::to_string(at.z) + ")"; }
bool same(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// -- fibers ---------------------------------------------------------------------------------------------------------------------------------------

struct Fiber {
  ucontext_t context{};
  jmp_buf state{};
  bool has_begun = false;
  std::byte* stack = nullptr;  // never given back: the next kernel uses it
};

// Whoever switches to fibers. Valid while a kernel runs.
jmp_buf scheduler;

void switch_to(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.has_begun) _longjmp(fiber.state, 1);
  fiber.has_begun = true;
  setcontext(&fiber.context);
}
void switch_to_scheduler(Fiber& fiber) {
  if (_setjmp(fiber.state) == 0) _longjmp(scheduler, 1);
}

void run_threads();

Fiber make_fiber() {
  Fiber fiber;
  void* const memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Fault("no memory for the stack of a thread");
  mprotect(memory, page, PROT_NONE);
  fiber.stack = static_cast<std::byte*>(memory);
  return fiber;
}
void begin_anew(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_threads, 0);
  fiber.has_begun = false;
}

// -- the block that runs --------------------------------------------------------------------------------------------------------------------------

// Lanes of a warp that meet, by their mask. Values of one meeting are read while those of the next are written, hence two places.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  unsigned count = 0;  // meetings so far
  std::source_location where;
  size_t bytes = 0;
  std::vector<std::byte> values[2];
  std::vector<int> waiting;
};

struct Thread {
  uint3 index{};
  Fiber* fiber = nullptr;  // while it waits
  bool left = false;
  bool waits = false;
  std::source_location where;  // it waits
};

struct Block {
  const Kernel* kernel = nullptr;
  std::vector<Thread> threads;
  std::vector<int> order;       // in which threads begin and go on
  size_t begun = 0;             // of `order`
  std::deque<int> ready;        // threads that may go on
  std::vector<int> at_barrier;  // threads that wait there
  std::source_location barrier;
  int left = 0;
  std::vector<std::vector<Meeting>> meetings;  // of each warp
  int current = -1;
  Fiber* fiber = nullptr;
  std::string fault;
};

Block block;
std::deque<Fiber> fibers;
std::vector<Fiber*> idle;
std::vector<std::byte> dynamic_memory;
std::byte* dynamic_begin = nullptr;

[[noreturn]] void fail(const std::string& message) {
  block.fault = message;
  _longjmp(scheduler, 1);
}

std::string here() { return "thread " + text_of(block.threads[static_cast<size_t>(block.current)].index) + " of block " + text_of(blockIdx); }

void become(int thread) {
  block.current = thread;
  threadIdx = block.threads[static_cast<size_t>(thread)].index;
}

// What a fiber does.
void run_threads() {
  for (;;) {
    while (block.begun < block.order.size()) {
      become(block.order[block.begun++]);
      block.kernel->thread();
      block.threads[static_cast<size_t>(block.current)].left = true;
      ++block.left;
    }
    Fiber& mine = *block.fiber;
    idle.push_back(&mine);
    switch_to_scheduler(mine);
  }
}

// Until `ready` has had the calling thread.
void wait(const std::source_location& where) {
  const int me = block.current;
  Thread& thread = block.threads[static_cast<size_t>(me)];
  thread.fiber = block.fiber;
  thread.waits = true;
  thread.where = where;
  switch_to_scheduler(*thread.fiber);
}

void release(std::vector<int>& waiting) {
  for (const int thread : waiting) {
    block.threads[static_cast<size_t>(thread)].waits = false;
    block.ready.push_back(thread);
  }
  waiting.clear();
}

void reorder(std::vector<int>& threads) {
  switch (choose(4)) {
    case 0: std::sort(threads.begin(), threads.end()); return;
    case 1: std::sort(threads.begin(), threads.end(), std::greater<>()); return;
    default:
      for (size_t i = threads.size(); i > 1; --i) std::swap(threads[i - 1], threads[choose(static_cast<unsigned>(i))]);
  }
}

[[noreturn]] void report_stuck() {
  const auto stuck = std::find_if(block.threads.begin(), block.threads.end(), [](const Thread& each) { return each.waits; });
  const auto missing = std::find_if(block.threads.begin(), block.threads.end(),
                                    [&](const Thread& each) { return each.left || (each.waits && !same(each.where, stuck->where)); });
  std::string message = "thread " + text_of(stuck->index) + " of block " + text_of(blockIdx) + " waits at " + text_of(stuck->where);
  if (missing != block.threads.end())
    message += ", and thread " + text_of(missing->index) + (missing->left ? " has left the kernel" : " waits at " + text_of(missing->where));
  throw Fault(message);
}

// The thread that goes on: the one that has waited longest, or shortest, so that a warp runs ahead of the others, or any.
int take_ready(unsigned manner) {
  std::deque<int>& ready = block.ready;
  const size_t at = manner == 0 ? 0 : manner == 1 ? ready.size() - 1 : choose(static_cast<unsigned>(ready.size()));
  std::swap(ready[at], manner == 0 ? ready.front() : ready.back());
  const int thread = manner == 0 ? ready.front() : ready.back();
  manner == 0 ? ready.pop_front() : ready.pop_back();
  return thread;
}

void run_block() {
  for (Thread& thread : block.threads) thread.fiber = nullptr, thread.left = thread.waits = false;
  block.begun = 0;
  block.left = 0;
  block.ready.clear();
  block.at_barrier.clear();
  for (std::vector<Meeting>& of_warp : block.meetings) of_warp.clear();
  block.fault.clear();
  const unsigned manner = choose(3);
  const bool begins_first = choose(2) == 0;  // all threads, before one that has waited goes on
  while (block.left < static_cast<int>(block.threads.size())) {
    if (block.begun < block.order.size() && (begins_first || block.ready.empty())) {
      if (idle.empty()) {
        fibers.push_back(make_fiber());
        begin_anew(fibers.back());
        idle.push_back(&fibers.back());
      }
      block.fiber = idle.back();
      idle.pop_back();
    } else if (!block.ready.empty()) {
      const int thread = take_ready(manner);
      become(thread);
      block.fiber = block.threads[static_cast<size_t>(thread)].fiber;
    } else {
      report_stuck();
    }
    switch_to(*block.fiber);
    if (!block.fault.empty()) throw Fault(block.fault);
  }
}

// While a kernel runs, memory that is not there is a fault of the thread that touches it.
class FaultsOfMemory {
 public:
  FaultsOfMemory() {
    struct sigaction action {};
    action.sa_handler = [](int) { fail(here() + " touches memory that is not there"); };
    action.sa_flags = SA_NODEFER;  // the handler does not return
    sigaction(SIGSEGV, &action, &before_);
  }
  FaultsOfMemory(const FaultsOfMemory&) = delete;
  ~FaultsOfMemory() { sigaction(SIGSEGV, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// -- shared memory --------------------------------------------------------------------------------------------------------------------------------

// The thread_locals of the library that has the kernel. They have no place before this thread has touched one of them, which the first block may do.
struct SharedMemory {
  const void* function = nullptr;
  void* begin = nullptr;
  size_t bytes = 0;
};
int find_library(dl_phdr_info* library, size_t, void* data) {
  auto& found = *static_cast<SharedMemory*>(data);
  const auto address = reinterpret_cast<uintptr_t>(found.function) - library->dlpi_addr;
  bool is_here = false;
  size_t bytes = 0;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const auto& segment = library->dlpi_phdr[i];
    if (segment.p_type == PT_LOAD && address >= segment.p_vaddr && address < segment.p_vaddr + segment.p_memsz) is_here = true;
    if (segment.p_type == PT_TLS) bytes = segment.p_memsz;
  }
  if (!is_here) return 0;
  found.begin = library->dlpi_tls_data;
  found.bytes = bytes;
  return 1;
}

}  // namespace

int lane() {
  const uint3& at = threadIdx;
  return static_cast<int>((at.x + blockDim.x * (at.y + blockDim.y * at.z)) % warp_lanes);
}

void* dynamic_shared_memory() { return dynamic_begin; }

void block_barrier(std::source_location where) {
  if (block.at_barrier.empty())
    block.barrier = where;
  else if (!same(block.barrier, where))
    fail(here() + " comes to the barrier at " + text_of(where) + ", others to that at " + text_of(block.barrier));
  if (block.at_barrier.size() + 1 < block.threads.size()) {
    block.at_barrier.push_back(block.current);
    return wait(where);
  }
  reorder(block.at_barrier);
  release(block.at_barrier);
}

const std::byte* detail::exchange(unsigned mask, const void* mine, size_t bytes, std::source_location where) {
  const int me = lane();
  std::vector<Meeting>& meetings = block.meetings[static_cast<size_t>(block.current / warp_lanes)];
  if (!(mask >> me & 1)) fail(here() + " is not in the mask that it gives at " + text_of(where));
  auto found = std::find_if(meetings.begin(), meetings.end(), [&](const Meeting& each) { return each.mask == mask; });
  if (found == meetings.end()) {
    meetings.emplace_back().mask = mask;
    found = meetings.end() - 1;
  }
  const auto index = found - meetings.begin();
  if (found->arrived == 0) {
    found->where = where;
    found->bytes = bytes;
  } else if (!same(found->where, where) || found->bytes != bytes) {
    fail(here() + " comes to " + text_of(where) + ", other lanes of its warp to " + text_of(found->where));
  }
  std::vector<std::byte>& values = found->values[found->count % 2];
  if (values.size() < bytes * warp_lanes) values.resize(bytes * warp_lanes);
  std::memcpy(values.data() + static_cast<size_t>(me) * bytes, mine, bytes);
  const std::byte* const result = values.data();
  found->arrived |= 1u << me;
  if (found->arrived != mask) {
    found->waiting.push_back(block.current);
    wait(where);
    return result;
  }
  Meeting& all = meetings[static_cast<size_t>(index)];
  all.arrived = 0;
  ++all.count;
  release(all.waiting);
  return result;
}

void detail::wrong_lane(unsigned mask, int lane, std::source_location where) {
  fail(here() + " asks for the value of lane " + std::to_string(lane) + " at " + text_of(where) + ", which mask " + std::to_string(mask) +
       " leaves out");
}

void run(const Kernel& kernel) {
  const dim3 size = kernel.block;
  block.kernel = &kernel;
  blockDim = kernel.block;
  gridDim = kernel.grid;
  block.threads.assign(size_t{size.x} * size.y * size.z, {});
  block.order.resize(block.threads.size());
  block.meetings.resize((block.threads.size() + warp_lanes - 1) / warp_lanes);
  for (size_t i = 0; i < block.threads.size(); ++i) {
    const auto n = static_cast<unsigned>(i);
    block.threads[i].index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
    block.order[i] = static_cast<int>(i);
  }
  // Aligned to 128 bytes, and to no more.
  dynamic_memory.resize(kernel.shared_bytes + 512);
  dynamic_begin = dynamic_memory.data() + (256 - reinterpret_cast<uintptr_t>(dynamic_memory.data()) % 256) % 256 + 128;
  const FaultsOfMemory faults;
  SharedMemory shared{kernel.function};
  dl_iterate_phdr(find_library, &shared);
  for (unsigned z = 0; z < kernel.grid.z; ++z) {
    for (unsigned y = 0; y < kernel.grid.y; ++y) {
      for (unsigned x = 0; x < kernel.grid.x; ++x) {
        blockIdx = {x, y, z};
        if (!shared.begin && shared.bytes > 0) dl_iterate_phdr(find_library, &shared);
        if (shared.begin) std::memset(shared.begin, poison, shared.bytes);
        std::memset(dynamic_memory.data(), poison, dynamic_memory.size());
        reorder(block.order);
        try {
          run_block();
        } catch (const Fault&) {
          // Threads stand somewhere in the kernel: their fibers are to be begun anew.
          idle.clear();
          for (Fiber& fiber : fibers) {
            begin_anew(fiber);
            idle.push_back(&fiber);
          }
          throw;
        }
      }
    }
  }
}

}  // namespace emulated_gpu
