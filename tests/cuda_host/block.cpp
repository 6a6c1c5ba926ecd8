// Compiled without sanitizers: the scheduler looks at every thread's memory, which is no race and no error.
#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

#ifdef VISPEC_ASAN
extern "C" void __asan_loadN(void* address, size_t bytes);
extern "C" void __asan_storeN(void* address, size_t bytes);
#endif
#ifdef VISPEC_TSAN
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
extern "C" void __tsan_read_range(void* address, size_t bytes);
extern "C" void __tsan_write_range(void* address, size_t bytes);
#endif

namespace vispec::host {
namespace {

constexpr int kMaxThreads = 1024, kMaxWarps = kMaxThreads / kWarpSize;
constexpr size_t kMaxShared = 227 << 10;  // of a block, on sm_90

// ---- ThreadSanitizer's view of order: only barriers make one -----------------------------------------------------

struct SyncPoint {
  alignas(8) char object[8];  // closer ones would be one to ThreadSanitizer
};

void release(SyncPoint& point) {
  (void)point;
#ifdef VISPEC_TSAN
  __tsan_release(&point);
#endif
}

void acquire(SyncPoint& point) {
  (void)point;
#ifdef VISPEC_TSAN
  __tsan_acquire(&point);
#endif
}

// ---- Threads, warps, the block -----------------------------------------------------------------------------------

struct Copy {
  void* shared;
  const void* global;  // null: zeros
  int group;
};

struct Thread {
  Fiber fiber;
  uint3 index;
  int warp, lane;
  std::vector<Copy> copies;  // cp.async under way
  int group;                 // that copies are added to: groups closed so far
};

struct Operation {
  const char* name;
  Where where;
  uint32_t mask;
  void* arguments;
  Compute compute;
};

struct Warp {
  uint32_t ready, waiting, done;  // bits of lanes; waiting: in an operation. The others wait at a barrier
  Operation operation[kWarpSize];
  SyncPoint sync[kWarpSize][2];  // of the masks whose lowest lane it is, by turns
  int turn[kWarpSize];
};

struct Block {
  int num_threads, num_warps;
  int num_done, num_at_barrier, num_yes;
  int yes_of_last_barrier;
  Where barrier;  // where those at the barrier are
  int epoch;      // barriers passed
  SyncPoint start, end, barriers[2];
};

Thread* threads[kMaxThreads];  // opened when first needed, kept until a launch fails
Warp warps[kMaxWarps];
Block block;
Thread* current;

void (*kernel_body)(const void*);
const void* kernel_arguments;
std::string error;
uint64_t random_state;
// Aligned to 128 bytes as on a device, and no better: an overrun ends in the last KiB, which nothing else uses.
alignas(256) unsigned char shared_block[128 + kMaxShared + 1024];
unsigned char* const shared = shared_block + 128;
size_t shared_size;

uint32_t random_below(uint32_t n) {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return static_cast<uint32_t>((random_state >> 32) * n >> 32);
}

// One of the bits that are set.
int choose(uint32_t bits) {
  if (schedule.order == kForward) return __builtin_ctz(bits);
  if (schedule.order == kReverse) return 31 - __builtin_clz(bits);
  for (uint32_t skip = random_below(__builtin_popcount(bits)); skip > 0; --skip) bits &= bits - 1;
  return __builtin_ctz(bits);
}

// ---- Reports -----------------------------------------------------------------------------------------------------

std::string place(Where where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

std::string triple(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string lanes(uint32_t bits) {
  std::string text;
  for (int i = 0; i < kWarpSize; ++i) {
    if (bits >> i & 1) text += (text.empty() ? "" : " ") + std::to_string(i);
  }
  return text;
}

bool same_place(Where a, Where b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// Ends the launch: the other threads stay where they are and are dropped by run_grid.
[[noreturn]] void give_up(const std::string& text) {
  if (running == &main_fiber) throw std::runtime_error(text);
  error = text;
  switch_to(main_fiber);
  __builtin_unreachable();
}

std::string deadlock() {
  std::string text = "deadlock in block " + triple(block_index) + ":";
  if (block.num_at_barrier > 0) {
    text += "\n  " + std::to_string(block.num_at_barrier) + " threads wait at the barrier of " + place(block.barrier);
  }
  for (int w = 0; w < block.num_warps; ++w) {
    uint32_t left = warps[w].waiting;
    while (left != 0) {
      const Operation& operation = warps[w].operation[__builtin_ctz(left)];
      uint32_t together = 0;
      for (int i = 0; i < kWarpSize; ++i) {
        const bool same = left >> i & 1 && same_place(warps[w].operation[i].where, operation.where);
        together |= static_cast<uint32_t>(same) << i;
      }
      text += "\n  warp " + std::to_string(w) + ": lanes " + lanes(together) + " wait in " + operation.name + " of " +
              place(operation.where) + " for lanes " + lanes(operation.mask & ~together & ~warps[w].done);
      left &= ~together;
    }
  }
  return text;
}

// ---- Who goes on -------------------------------------------------------------------------------------------------

Fiber& resume(int warp, int lane) {
  current = threads[warp * kWarpSize + lane];
  thread_index = &current->index;
  return current->fiber;
}

Fiber& pick_in_block() {
  uint32_t can_go_on = 0;
  for (int w = 0; w < block.num_warps; ++w) can_go_on |= static_cast<uint32_t>(warps[w].ready != 0) << w;
  if (can_go_on == 0) {
    if (block.num_done == block.num_threads) return main_fiber;
    give_up(deadlock());
  }
  const int warp = choose(can_go_on);
  return resume(warp, choose(warps[warp].ready));
}

// Depth first: round robin over all warps would keep them in step and so hide a missing barrier.
Fiber& pick_after(const Thread& thread) {
  const uint32_t ready = warps[thread.warp].ready;
  return ready != 0 ? resume(thread.warp, choose(ready)) : pick_in_block();
}

void complete_barrier_if_all_are_there() {
  if (block.num_at_barrier == 0 || block.num_at_barrier + block.num_done < block.num_threads) return;
  for (int i = 0; i < block.num_threads; ++i) {
    Warp& warp = warps[i / kWarpSize];
    warp.ready |= ~warp.done & 1u << i % kWarpSize;
  }
  block.yes_of_last_barrier = block.num_yes;
  block.num_at_barrier = block.num_yes = 0;
  ++block.epoch;
}

// Whether the operation that `lane` waits in has been done.
bool complete_operation_if_all_are_there(Warp& warp, int lane) {
  const Operation operation = warp.operation[lane];
  const uint32_t members = operation.mask & ~warp.done;
  void* arguments[kWarpSize] = {};
  for (int i = 0; i < kWarpSize; ++i) {
    if (!(members >> i & 1)) continue;
    if (!(warp.waiting >> i & 1)) return false;
    const Operation& other = warp.operation[i];
    if (!same_place(other.where, operation.where) || other.mask != operation.mask) {
      if (!(other.mask >> lane & 1)) return false;  // a part of the warp on its own, which may come here later
      give_up("lanes of one warp in different operations: lane " + std::to_string(lane) + " in " + operation.name +
              " of " + place(operation.where) + " with mask " + hex(operation.mask) + ", lane " + std::to_string(i) +
              " in " + other.name + " of " + place(other.where) + " with mask " + hex(other.mask));
    }
    arguments[i] = other.arguments;
  }
#ifdef VISPEC_TSAN
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
  operation.compute(arguments, operation.name, operation.where);
#ifdef VISPEC_TSAN
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
  warp.waiting &= ~members;
  warp.ready |= members;
  return true;
}

// A thread's whole life: one kernel after the other, in every block that has so many threads.
void live() {
  arrived(*running);
  while (true) {
    Thread& thread = *current;
    acquire(block.start);
    kernel_body(kernel_arguments);
    release(block.end);

    Warp& warp = warps[thread.warp];
    warp.ready &= ~(1u << thread.lane);
    warp.done |= 1u << thread.lane;
    ++block.num_done;
    // Barriers and operations wait for threads that have not ended.
    for (uint32_t left = warp.waiting; left != 0; left &= left - 1) {
      if (complete_operation_if_all_are_there(warp, __builtin_ctz(left))) break;
    }
    complete_barrier_if_all_are_there();
    switch_to(pick_after(thread));
  }
}

void drop_threads() {
  for (Thread*& thread : threads) {
    if (thread == nullptr) continue;
    close_fiber(thread->fiber);
    delete thread;
    thread = nullptr;
  }
}

void start_block() {
  block = {};
  block.num_threads = static_cast<int>(block_size.x * block_size.y * block_size.z);
  block.num_warps = (block.num_threads + kWarpSize - 1) / kWarpSize;
  for (int i = 0; i < block.num_threads; ++i) {
    if (threads[i] == nullptr) {
      threads[i] = new Thread;
      if (!open_fiber(threads[i]->fiber, live)) throw std::runtime_error("no memory for the threads' stacks");
    }
    const unsigned n = i, rest = n / block_size.x;
    threads[i]->index = {n % block_size.x, rest % block_size.y, rest / block_size.y};
    threads[i]->warp = i / kWarpSize;
    threads[i]->lane = i % kWarpSize;
    threads[i]->copies.clear();
    threads[i]->group = 0;
  }
  for (int w = 0; w < block.num_warps; ++w) {
    const int lanes = std::min(block.num_threads - w * kWarpSize, kWarpSize);
    const uint32_t exist = lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
    warps[w].ready = exist;
    warps[w].done = ~exist;
    warps[w].waiting = 0;
  }
  std::memset(shared, 0xFF, shared_size);
}

void run_block(uint64_t number) {
  const uint64_t rest = number / grid_size.x;
  block_index = {static_cast<unsigned>(number % grid_size.x), static_cast<unsigned>(rest % grid_size.y),
                 static_cast<unsigned>(rest / grid_size.y)};
  start_block();
  release(block.start);
  switch_to(pick_in_block());
  acquire(block.end);
  thread_index = nullptr;
  if (error.empty()) return;
  drop_threads();
  throw std::runtime_error(std::exchange(error, {}));
}

}  // namespace

Schedule schedule{};
const uint3* thread_index;
uint3 block_index;
dim3 block_size, grid_size;

unsigned char* shared_memory() { return shared; }

void fail(const char* what, Where where) {
  give_up(place(where) + ": " + what + ", in thread " + triple(*thread_index) + " of block " + triple(block_index));
}

void run_grid(dim3 grid, dim3 block_dim, size_t shared_bytes, void (*body)(const void*), const void* arguments) {
  const uint64_t per_block = uint64_t{block_dim.x} * block_dim.y * block_dim.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (per_block == 0 || per_block > kMaxThreads) throw std::runtime_error("launch: a block has 1 to 1024 threads");
  if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw std::runtime_error("launch: a grid has 1 to (2^31 - 1, 65535, 65535) blocks");
  }
  if (shared_bytes > kMaxShared) throw std::runtime_error("launch: a block has 227 KiB of shared memory");
  grid_size = grid, block_size = block_dim, shared_size = shared_bytes;
  kernel_body = body, kernel_arguments = arguments;
  random_state = (schedule.seed + 1) * 0x9E3779B97F4A7C15u;
#ifdef VISPEC_ASAN
  __asan_poison_memory_region(shared_block, sizeof shared_block);
  __asan_unpoison_memory_region(shared, shared_size);
#endif
#ifdef VISPEC_TSAN
  main_fiber.clock = __tsan_get_current_fiber();
#endif
  std::vector<uint64_t> numbers(blocks);
  for (uint64_t i = 0; i < blocks; ++i) numbers[i] = schedule.order == kReverse ? blocks - 1 - i : i;
  for (uint64_t i = blocks - 1; schedule.order == kRandom && i > 0; --i) {
    std::swap(numbers[i], numbers[random_below(static_cast<uint32_t>(i + 1))]);
  }
  for (uint64_t number : numbers) run_block(number);
}

// ---- Operations of warps and blocks ------------------------------------------------------------------------------

int lane() { return current->lane; }

void warp_operation(const char* name, uint32_t mask, void* arguments, Compute compute, Where where) {
  const Thread& thread = *current;
  Warp& warp = warps[thread.warp];
  if (!(mask >> thread.lane & 1)) {
    const std::string text = std::string(name) + ": lane " + std::to_string(thread.lane) + " is not in its mask ";
    fail((text + hex(mask)).c_str(), where);
  }
  warp.operation[thread.lane] = {name, where, mask, arguments, compute};
  warp.ready &= ~(1u << thread.lane);
  warp.waiting |= 1u << thread.lane;
  if (!complete_operation_if_all_are_there(warp, thread.lane)) switch_to(pick_after(thread));
}

void sync_warp(uint32_t mask, Where where) {
  Warp& warp = warps[current->warp];
  const int first = mask != 0 ? __builtin_ctz(mask) : 0;
  SyncPoint& point = warp.sync[first][warp.turn[first] & 1];
  release(point);
  int* turn = &warp.turn[first];
  warp_operation(
      "__syncwarp", mask, turn,
      [](void* const(&arguments)[kWarpSize], const char*, Where) {
        ++*static_cast<int*>(*std::find_if(arguments, arguments + kWarpSize, [](void* p) { return p; }));
      },
      where);
  acquire(point);
}

int sync_threads(bool predicate, Where where) {
  if (block.num_at_barrier > 0 && !same_place(block.barrier, where)) {
    fail(("__syncthreads while other threads wait at the barrier of " + place(block.barrier)).c_str(), where);
  }
  Warp& warp = warps[current->warp];
  SyncPoint& point = block.barriers[block.epoch & 1];
  release(point);
  warp.ready &= ~(1u << current->lane);
  block.barrier = where;
  block.num_yes += predicate;
  ++block.num_at_barrier;
  complete_barrier_if_all_are_there();
  const bool passed = block.num_at_barrier == 0;
  switch_to(passed ? pick_in_block() : pick_after(*current));
  acquire(point);
  return block.yes_of_last_barrier;
}

void shuffle(Shuffle& s, const char* name, uint32_t mask, Where where) {
  warp_operation(
      name, mask, &s,
      [](void* const(&arguments)[kWarpSize], const char* name, Where where) {
        for (int i = 0; i < kWarpSize; ++i) {
          auto* to = static_cast<Shuffle*>(arguments[i]);
          if (to == nullptr) continue;
          const auto* from = static_cast<const Shuffle*>(arguments[to->source]);
          if (from == nullptr) {
            give_up(place(where) + ": " + name + ": lane " + std::to_string(i) + " reads lane " +
                    std::to_string(to->source) + ", which is outside the mask or has ended, in block " +
                    triple(block_index));
          }
          to->result = from->value;
        }
      },
      where);
}

uint32_t ballot(bool predicate, const char* name, uint32_t mask, Where where) {
  uint32_t bits = predicate;
  warp_operation(
      name, mask, &bits,
      [](void* const(&arguments)[kWarpSize], const char*, Where) {
        uint32_t votes = 0;
        for (int i = 0; i < kWarpSize; ++i) {
          if (arguments[i] != nullptr) votes |= *static_cast<uint32_t*>(arguments[i]) << i;
        }
        for (void* bits : arguments) {
          if (bits != nullptr) *static_cast<uint32_t*>(bits) = votes;
        }
      },
      where);
  return bits;
}

// ---- Memory ------------------------------------------------------------------------------------------------------

void note_read(const void* address, size_t bytes) {
  (void)address, (void)bytes;
#ifdef VISPEC_ASAN
  __asan_loadN(const_cast<void*>(address), bytes);
#endif
#ifdef VISPEC_TSAN
  __tsan_read_range(const_cast<void*>(address), bytes);
#endif
}

void note_write(void* address, size_t bytes) {
  (void)address, (void)bytes;
#ifdef VISPEC_ASAN
  __asan_storeN(address, bytes);
#endif
#ifdef VISPEC_TSAN
  __tsan_write_range(address, bytes);
#endif
}

void check_aligned(const void* address, const char* what, Where where) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
    fail((std::string(what) + ": the address is not a multiple of 16").c_str(), where);
  }
}

void check_shared(const void* address, size_t bytes, const char* what, Where where) {
  const auto* first = static_cast<const unsigned char*>(address);
  if (first < shared || first + bytes > shared + shared_size) {
    fail(
        (std::string(what) + ": not in the block's " + std::to_string(shared_size) + " bytes of shared memory").c_str(),
        where);
  }
}

namespace {

void land(const Copy& copy) {
  note_write(copy.shared, 16);
  if (copy.global != nullptr) {
    std::memcpy(copy.shared, copy.global, 16);
  } else {
    std::memset(copy.shared, 0, 16);
  }
}

}  // namespace

void copy_async(void* shared, const void* global, bool valid, Where where) {
  check_aligned(shared, "cp.async to shared memory", where);
  check_aligned(global, "cp.async from global memory", where);
  check_shared(shared, 16, "cp.async", where);
  if (valid) note_read(global, 16);
  const Copy copy{shared, valid ? global : nullptr, current->group};
  if (schedule.copies_at_wait) {
    current->copies.push_back(copy);
  } else {
    land(copy);
  }
}

void commit_copies() { ++current->group; }

void wait_for_copies(int pending_groups) {
  auto& copies = current->copies;
  const int first_pending = current->group - pending_groups;
  const auto end = std::find_if(copies.begin(), copies.end(), [&](const Copy& c) { return c.group >= first_pending; });
  std::for_each(copies.begin(), end, land);
  copies.erase(copies.begin(), end);
}

}  // namespace vispec::host

#ifdef VISPEC_PLAIN
// Kernels of the plain build are compiled with -fsanitize=alignment and call this instead of the sanitizer's library.
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
extern "C" __attribute__((visibility("default"))) void __ubsan_handle_type_mismatch_v1(const SourceLocation* where,
                                                                                       const void* address) {
  const char* slash = std::strrchr(where->file, '/');
  char text[256];
  std::snprintf(text, sizeof text, "%s:%u: misaligned or null address %p", slash ? slash + 1 : where->file, where->line,
                address);
  vispec::host::give_up(text);
}
#endif
