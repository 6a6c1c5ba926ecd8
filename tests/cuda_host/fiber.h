// A stack of its own for each thread of a block, and the switch from one to another. x86-64.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#ifdef VISPEC_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef VISPEC_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// Saves the six registers that a callee must keep, leaves the stack at *from and goes on where `to` left its own.
extern "C" void vispec_switch_stacks(void** from, void* to);
asm(R"(
  .text
  .hidden vispec_switch_stacks
  .globl vispec_switch_stacks
  .type vispec_switch_stacks, @function
vispec_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size vispec_switch_stacks, .-vispec_switch_stacks
)");

namespace vispec::host {

#if defined(VISPEC_ASAN) || defined(VISPEC_TSAN)
constexpr size_t kStackBytes = 256 << 10;  // sanitizers' frames are larger
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kGuardBytes = 4096;  // below the stack, where an overflow faults instead of writing into a neighbour

struct Fiber {
  void* stack_pointer = nullptr;
  const void* bottom = nullptr;  // of the stack, for AddressSanitizer
  size_t size = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* clock = nullptr;       // ThreadSanitizer's fiber
};

inline Fiber main_fiber;  // whoever called: its stack is not ours
inline Fiber *running = &main_fiber, *previous = nullptr;

// Call at once when a fiber goes on, or starts.
inline void arrived(Fiber& here) {
  (void)here;
#ifdef VISPEC_ASAN
  __sanitizer_finish_switch_fiber(here.fake_stack, &previous->bottom, &previous->size);
#endif
}

inline void switch_to(Fiber& to) {
  Fiber& from = *running;
  if (&to == &from) return;
  previous = &from;
  running = &to;
#ifdef VISPEC_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
#ifdef VISPEC_TSAN
  __tsan_switch_to_fiber(to.clock, __tsan_switch_to_fiber_no_sync);
#endif
  vispec_switch_stacks(&from.stack_pointer, to.stack_pointer);
  arrived(from);
}

// Calls `entry`, which never returns, at the first switch. False: no memory.
inline bool open_fiber(Fiber& fiber, void (*entry)()) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) return false;
  mprotect(memory, kGuardBytes, PROT_NONE);
  char* bottom = static_cast<char*>(memory) + kGuardBytes;
  void** top = reinterpret_cast<void**>(bottom + kStackBytes);
  // A function starts with its stack pointer 8 below a multiple of 16: top[-1] stands for the return address.
  top[-2] = reinterpret_cast<void*>(entry);
  fiber = {.stack_pointer = top - 8, .bottom = bottom, .size = kStackBytes};  // six registers, zero
#ifdef VISPEC_TSAN
  fiber.clock = __tsan_create_fiber(0);
#endif
  return true;
}

// For a fiber that is not running; what it was doing is dropped.
inline void close_fiber(Fiber& fiber) {
#ifdef VISPEC_ASAN
  __asan_unpoison_memory_region(fiber.bottom, fiber.size);  // frames that will never return
#endif
#ifdef VISPEC_TSAN
  __tsan_destroy_fiber(fiber.clock);
#endif
  munmap(static_cast<char*>(const_cast<void*>(fiber.bottom)) - kGuardBytes, kGuardBytes + fiber.size);
  fiber = {};
}

}  // namespace vispec::host
