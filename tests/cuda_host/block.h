// A block of CUDA threads on a CPU: what the vocabulary of kernels (include/cuda/) is made of. One block runs at a
// time, and one of its threads: a thread that waits hands over to another one, first of its own warp, so that warps run
// as far apart as the barriers let them. A broken rule ends the launch with a text that says where.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace vispec::host {

using Where = std::source_location;  // of a call in a kernel

constexpr int kWarpSize = 32;

// Which of the threads that can go on does: the first, the last, or any. Blocks come in the same order.
enum Order : int { kForward, kReverse, kRandom };

struct Schedule {
  int order;
  int copies_at_wait;  // when cp.async writes: 0 when issued, 1 when waited for
  uint64_t seed;       // of kRandom
};

extern Schedule schedule;
extern const uint3* thread_index;
extern uint3 block_index;
extern dim3 block_size, grid_size;

// Runs body(arguments) in every thread. Throws std::runtime_error with the text of the first rule broken.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*), const void* arguments);

// The block's shared memory: 0xFF at first, a NaN in every float type. AddressSanitizer knows where it ends.
unsigned char* shared_memory();

[[noreturn]] void fail(const char* what, Where where);

// The lanes of `mask` meet; the last one to come calls compute for all. arguments[lane] lie on the lanes' stacks, null
// for lanes that are not in the mask or have ended.
using Compute = void (*)(void* const (&arguments)[kWarpSize], const char* name, Where where);
void warp_operation(const char* name, uint32_t mask, void* arguments, Compute compute, Where where);

void sync_warp(uint32_t mask, Where where);
int sync_threads(bool predicate, Where where);  // how many said yes

int lane();

struct Shuffle {
  uint64_t value;
  int source;
  uint64_t result;
};
void shuffle(Shuffle& s, const char* name, uint32_t mask, Where where);
uint32_t ballot(bool predicate, const char* name, uint32_t mask, Where where);

// What a thread does with memory where the compiler's instrumentation does not see it.
void note_read(const void* address, size_t bytes);
void note_write(void* address, size_t bytes);

void check_aligned(const void* address, const char* what, Where where);  // to 16 bytes
void check_shared(const void* address, size_t bytes, const char* what, Where where);

void copy_async(void* shared, const void* global, bool valid, Where where);
void commit_copies();
void wait_for_copies(int pending_groups);

// Warp-wide: the arguments of one lane.
struct LoadMatrix {
  uint32_t* r;
  const void* row;
};
void load_matrix(LoadMatrix& lane, bool transposed, Where where);

struct Product {
  float* d;
  const uint32_t *a, *b;
};
void multiply_half(Product& lane, Where where);
void multiply_bfloat16(Product& lane, Where where);

}  // namespace vispec::host
