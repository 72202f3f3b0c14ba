/* Runs a kernel block by block. The threads of a block are fibers that switch at barriers and warp
 * operations; threads that never wait share one fiber. */
#include "tests/emulator/device.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the emulator's fibers are written for x86-64"
#endif

/* Saves the callee-saved registers of the System V ABI and the stack pointer in *save, and
 * continues on the stack `to`, which was saved by this function or created by new_fiber. */
extern "C" void emulator_switch(void **save, void *to);
asm(R"(
  .text
  .globl emulator_switch
  .type emulator_switch, @function
emulator_switch:
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
  .size emulator_switch, .-emulator_switch
)");

namespace emulator {
namespace {

#ifdef __SANITIZE_ADDRESS__
const size_t STACK = size_t{256} << 10;
#else
const size_t STACK = size_t{128} << 10;
#endif
const unsigned LANES = 32;

struct Fiber {
  void *pointer = nullptr; /* the saved stack pointer */
  const void *bottom = nullptr;
  size_t size = 0;
  void *fake = nullptr; /* AddressSanitizer's */
};

enum ThreadState { FRESH, READY, AT_BARRIER, IN_WARP, ENDED };

struct Thread {
  ThreadState state;
  Fiber *fiber;
  EmulatorSourceLine source_line; /* at which it waits */
  unsigned mask;                  /* warp operation: the lanes that take part */
  int source;
  uint64_t value; /* of this lane, then the result */
};

struct Block {
  const EmulatorLaunch *launch;
  const void *parameters;
  std::vector<Thread> threads;
  std::vector<unsigned> ready; /* a queue: [first_ready, size) */
  size_t first_ready;
  unsigned fresh, ended, at_barrier; /* counts of threads */
  bool backwards;                    /* threads start in descending order */
  unsigned current;
};

void barrier(EmulatorSourceLine source_line);
uint64_t exchange(unsigned mask, uint64_t value, int source, EmulatorSourceLine source_line);

EmulatorDevice device_state = {{}, {}, {}, {}, nullptr, barrier, exchange};
/* Never freed: the device thread runs until the process exits. */
Block &block = *new Block;
Fiber main_fiber, *running;
std::vector<Fiber *> &free_fibers = *new std::vector<Fiber *>;

/* --- Errors ----------------------------------------------------------------------------------- */

const char *state_name(const Thread &thread) {
  switch (thread.state) {
  case AT_BARRIER:
    return "waits at a barrier,";
  case IN_WARP:
    return "waits for its warp's values,";
  case ENDED:
    return "has ended";
  default:
    return "is running";
  }
}

void print_thread(unsigned index) {
  const Thread &thread = block.threads[index];
  fprintf(stderr, "  thread %u %s", index, state_name(thread));
  if (thread.state == AT_BARRIER || thread.state == IN_WARP)
    fprintf(stderr, " %s:%d", thread.source_line.file, thread.source_line.line);
  if (thread.state == IN_WARP) fprintf(stderr, ", lanes %08x", thread.mask);
  fputc('\n', stderr);
}

[[noreturn]] void kernel_error(const char *what) {
  fprintf(stderr, "emulator: %s\n  kernel %s\n  block (%u, %u, %u) of (%u, %u, %u), %u threads\n",
          what, block.launch->name, device_state.block.x, device_state.block.y,
          device_state.block.z, block.launch->blocks.x, block.launch->blocks.y,
          block.launch->blocks.z, block.launch->threads);
  unsigned shown = 0;
  for (unsigned i = 0; i < block.launch->threads && shown < 16; i++) {
    const Thread &last = block.threads[i ? i - 1 : 0], &thread = block.threads[i];
    const bool same =
        i > 0 && thread.state == last.state && thread.source_line.line == last.source_line.line;
    if (same && i + 1 < block.launch->threads) continue;
    print_thread(i);
    shown++;
  }
  abort();
}

/* --- Fibers ----------------------------------------------------------------------------------- */

void switch_to(Fiber *to) {
  Fiber *const from = running;
  running = to;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from->fake, to->bottom, to->size);
#endif
  emulator_switch(&from->pointer, to->pointer);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}

void fiber_main();

Fiber *new_fiber() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  char *const memory =
      static_cast<char *>(mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) abort();
  static std::vector<Fiber *> *const all = new std::vector<Fiber *>;
  Fiber *fiber = new Fiber;
  all->push_back(fiber);
  fiber->bottom = memory + page;
  fiber->size = STACK;
  void **top = reinterpret_cast<void **>(memory + page + STACK);
  *--top = nullptr; /* return address of fiber_main, which never returns */
  *--top = reinterpret_cast<void *>(fiber_main);
  top -= 6; /* registers */
  fiber->pointer = top;
  return fiber;
}

void become(unsigned index) {
  block.current = index;
  device_state.thread = uint3{index, 0, 0};
}

unsigned take_fresh() {
  const unsigned number = block.launch->threads - block.fresh--;
  return block.backwards ? block.launch->threads - 1 - number : number;
}

void start_fresh() {
  if (free_fibers.empty()) free_fibers.push_back(new_fiber());
  Fiber *const fiber = free_fibers.back();
  free_fibers.pop_back();
  become(take_fresh());
  switch_to(fiber);
}

/* Switches from a waiting thread, or a free fiber, to a thread that can run. */
void switch_away() {
  if (block.first_ready < block.ready.size()) {
    const unsigned next = block.ready[block.first_ready++];
    become(next);
    switch_to(block.threads[next].fiber);
  } else if (block.fresh > 0) {
    start_fresh();
  } else if (block.ended == block.launch->threads) {
    switch_to(&main_fiber);
  } else {
    kernel_error("deadlock: threads wait for threads that have ended or wait elsewhere");
  }
}

void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    block.launch->entry(block.launch->kernel, block.parameters);
    block.threads[block.current].state = ENDED;
    block.ended++;
    if (block.first_ready == block.ready.size() && block.fresh > 0) {
      become(take_fresh());
      continue;
    }
    free_fibers.push_back(running);
    switch_away();
  }
}

/* --- Barriers and warp operations ------------------------------------------------------------- */

void make_ready(unsigned index) {
  if (block.first_ready == block.ready.size()) {
    block.ready.clear();
    block.first_ready = 0;
  }
  block.threads[index].state = READY;
  block.ready.push_back(index);
}

bool is_same(EmulatorSourceLine a, EmulatorSourceLine b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

Thread &wait_here(ThreadState state, EmulatorSourceLine source_line) {
  Thread &self = block.threads[block.current];
  self.state = state;
  self.source_line = source_line;
  self.fiber = running;
  return self;
}

void barrier(EmulatorSourceLine source_line) {
  Thread &self = wait_here(AT_BARRIER, source_line);
  if (++block.at_barrier < block.launch->threads) {
    switch_away();
    return;
  }
  for (unsigned i = 0; i < block.launch->threads; i++) {
    if (!is_same(block.threads[i].source_line, source_line))
      kernel_error("threads wait at different barriers");
    if (i != block.current) make_ready(i);
  }
  block.at_barrier = 0;
  self.state = READY;
}

/* The lanes of the current thread's warp: [first, first + count). */
unsigned warp_first() {
  return block.current & ~(LANES - 1);
}

unsigned warp_count() {
  const unsigned left = block.launch->threads - warp_first();
  return left < LANES ? left : LANES;
}

bool has_all_lanes(const Thread &self) {
  for (unsigned lane = 0; lane < warp_count(); lane++) {
    if (!(self.mask >> lane & 1)) continue;
    const Thread &other = block.threads[warp_first() + lane];
    if (other.state != IN_WARP || other.mask != self.mask) return false;
    if (!is_same(other.source_line, self.source_line))
      kernel_error("lanes of a warp wait at different warp operations");
  }
  return true;
}

/* Gives each lane the value of its source lane. */
void deliver_values(const Thread &self) {
  uint64_t values[LANES] = {0};
  for (unsigned lane = 0; lane < warp_count(); lane++)
    values[lane] = block.threads[warp_first() + lane].value;
  for (unsigned lane = 0; lane < warp_count(); lane++) {
    if (!(self.mask >> lane & 1)) continue;
    Thread &thread = block.threads[warp_first() + lane];
    const unsigned source = static_cast<unsigned>(thread.source);
    if (source >= warp_count() || !(self.mask >> source & 1))
      kernel_error("a lane reads the value of a lane that does not take part");
    thread.value = values[source];
  }
}

uint64_t exchange(unsigned mask, uint64_t value, int source, EmulatorSourceLine source_line) {
  Thread &self = wait_here(IN_WARP, source_line);
  self.mask = warp_count() == LANES ? mask : mask & ((1u << warp_count()) - 1);
  self.value = value;
  self.source = source;
  if (!(self.mask >> (block.current & (LANES - 1)) & 1))
    kernel_error("a lane is not in its own mask");
  if (!has_all_lanes(self)) {
    switch_away();
    return self.value;
  }
  deliver_values(self);
  for (unsigned lane = 0; lane < warp_count(); lane++) {
    const unsigned index = warp_first() + lane;
    if (self.mask >> lane & 1 && index != block.current) make_ready(index);
  }
  self.state = READY;
  return self.value;
}

/* --- Kernels ---------------------------------------------------------------------------------- */

void run_block(unsigned x, unsigned y, unsigned z) {
  device_state.block = uint3{x, y, z};
  block.threads.assign(block.launch->threads, Thread{});
  block.ready.clear();
  block.first_ready = 0;
  block.fresh = block.launch->threads;
  block.ended = block.at_barrier = 0;
  if (block.launch->shared_bytes) memset(device_state.shared, 0xff, block.launch->shared_bytes);
  start_fresh();
}

/* Finds the stack of the device thread. */
void describe_main_fiber() {
  pthread_attr_t attributes;
  void *bottom = nullptr;
  if (main_fiber.bottom) return;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &main_fiber.size);
  pthread_attr_destroy(&attributes);
  main_fiber.bottom = bottom;
}

} // namespace

/* Blocks and threads run in ascending or descending order, alternately at random, so that a kernel
 * that relies on one order fails. */
void run_kernel(const EmulatorLaunch &launch, const void *parameters) {
  static uint64_t launches = 0;
  const uint64_t order = ++launches * 0x9e3779b97f4a7c15u >> 61;
  describe_main_fiber();
  running = &main_fiber;
  block.launch = &launch;
  block.parameters = parameters;
  block.backwards = order & 1;
  device_state.block_size = dim3(launch.threads);
  device_state.grid_size = launch.blocks;
  device_state.shared = launch.shared_bytes ? malloc(launch.shared_bytes) : nullptr;
  const uint64_t x = launch.blocks.x, y = launch.blocks.y, count = x * y * launch.blocks.z;
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t at = order & 2 ? count - 1 - i : i;
    run_block(static_cast<unsigned>(at % x), static_cast<unsigned>(at / x % y),
              static_cast<unsigned>(at / x / y));
  }
  free(device_state.shared);
}

} // namespace emulator

using namespace emulator;

EmulatorDevice *emulator_device = &device_state;

cudaError_t emulator_enqueue_launch(const EmulatorLaunch *launch, const void *parameters,
                                    cudaStream_t stream) {
  const EmulatorLaunch copy = *launch;
  const size_t shared = 48 << 10; /* more needs cudaFuncSetAttribute, which is not emulated */
  count("kernel");
  const dim3 blocks = copy.blocks;
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > 0x7fffffffu ||
      blocks.y > 65535 || blocks.z > 65535 || copy.threads == 0 || copy.threads > 1024 ||
      copy.shared_bytes > shared || copy.parameter_bytes > 32764)
    return fail(cudaErrorInvalidConfiguration,
                "blocks (%u, %u, %u), %u threads, %zu bytes of shared memory (allowed: %zu), %zu "
                "bytes of parameters: %s",
                blocks.x, blocks.y, blocks.z, copy.threads, copy.shared_bytes, shared,
                copy.parameter_bytes, copy.name);
  if (cudaError_t error = refuse_first_launch(stream, copy.kernel, copy.name)) return error;
  return append_copy(stream, parameters, copy.parameter_bytes, [copy](const void *bytes) {
    run_kernel(copy, bytes);
    return true;
  });
}
