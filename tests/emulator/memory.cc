/* Device and pinned memory. Device memory is one region whose pages are protected while no device
 * work runs, so that a host access crashes. With AddressSanitizer it is heap memory, poisoned
 * instead, which also finds accesses out of bounds and after free. New memory is filled with 0xFF:
 * NaN. */
#include "tests/emulator/device.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>

#include "tests/emulator/include/emulator.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

struct Allocation {
  size_t bytes;
  bool pinned;
};

struct Memory {
  std::map<uintptr_t, Allocation> allocations;
  size_t used = 0; /* of the device */
  bool open = false;
  uintptr_t region = 0, top = 0; /* of device memory; the highest address ever allocated */
};

Memory &memory() {
  static Memory *const made = new Memory;
  return *made;
}

size_t limit() {
  const char *text = getenv("EMULATOR_MEMORY");
  return text ? strtoull(text, nullptr, 0) : size_t{8} << 30;
}

const uintptr_t ALIGNMENT = 256, PAGE = 4096;

uintptr_t address(const void *pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

/* The allocation that contains `at`, or allocations.end(). */
std::map<uintptr_t, Allocation>::const_iterator find(uintptr_t at) {
  const auto &allocations = memory().allocations;
  auto next = allocations.upper_bound(at);
  if (next == allocations.begin()) return allocations.end();
  --next;
  return at - next->first < next->second.bytes ? next : allocations.end();
}

#ifdef __SANITIZE_ADDRESS__

void set_all(bool open) {
  Memory &m = memory();
  m.open = open;
  for (const auto &item : m.allocations) {
    void *const start = reinterpret_cast<void *>(item.first);
    if (item.second.pinned) continue;
    if (open) {
      __asan_unpoison_memory_region(start, item.second.bytes);
    } else {
      __asan_poison_memory_region(start, item.second.bytes);
    }
  }
}

void *take_device(size_t bytes) {
  void *taken = nullptr;
  return posix_memalign(&taken, ALIGNMENT, bytes) == 0 ? taken : nullptr;
}

void give_back_device(void *taken, size_t bytes) {
  __asan_unpoison_memory_region(taken, bytes);
  free(taken);
}

#else

void set_all(bool open) {
  Memory &m = memory();
  m.open = open;
  if (m.top > m.region)
    mprotect(reinterpret_cast<void *>(m.region), m.top - m.region,
             open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void reserve_region() {
  Memory &m = memory();
  if (m.region) return;
  void *const made =
      mmap(nullptr, limit(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return;
  madvise(made, limit(), MADV_HUGEPAGE);
  m.region = m.top = address(made);
}

/* The first gap that is large enough. */
void *take_device(size_t bytes) {
  Memory &m = memory();
  reserve_region();
  if (!m.region) return nullptr;
  uintptr_t at = m.region;
  for (const auto &item : m.allocations) {
    if (item.second.pinned || item.first < at) continue;
    if (item.first - at >= bytes) break;
    at = (item.first + item.second.bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
  }
  if (bytes > m.region + limit() - at) return nullptr;
  const uintptr_t end = (at + bytes + PAGE - 1) & ~(PAGE - 1);
  if (end > m.top) m.top = end;
  set_all(m.open);
  return reinterpret_cast<void *>(at);
}

void give_back_device(void *, size_t) {}

#endif

void *take_pinned(size_t bytes) {
  void *taken = nullptr;
  return posix_memalign(&taken, ALIGNMENT, bytes) == 0 ? taken : nullptr;
}

cudaError_t allocate(void **out, size_t bytes, bool pinned, const char *call) {
  if (cudaError_t error = refuse_in_capture(call)) return error;
  Guard guard(lock());
  Memory &m = memory();
  *out = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (!pinned && (m.used > limit() || bytes > limit() - m.used)) return cudaErrorMemoryAllocation;
  void *const made = pinned ? take_pinned(bytes) : take_device(bytes);
  if (!made) return cudaErrorMemoryAllocation;
  const bool open = m.open;
  if (!pinned) set_all(true);
  memset(made, 0xff, bytes);
  m.allocations[address(made)] = Allocation{bytes, pinned};
  if (!pinned) m.used += bytes;
  if (!pinned) set_all(open);
  *out = made;
  return cudaSuccess;
}

/* CUDA waits for the device before it frees memory. */
cudaError_t release(void *pointer, bool pinned, const char *call) {
  if (cudaError_t error = refuse_in_capture(call)) return error;
  if (!pointer) return cudaSuccess;
  Guard guard(lock());
  wait_for_all(guard);
  Memory &m = memory();
  const auto found = m.allocations.find(address(pointer));
  if (found == m.allocations.end() || found->second.pinned != pinned)
    return fail(cudaErrorInvalidValue, "%s: %p is not allocated, or as another kind of memory",
                call, pointer);
  const Allocation allocation = found->second;
  m.allocations.erase(found);
  if (!pinned) m.used -= allocation.bytes;
  if (pinned) {
    free(pointer);
  } else {
    give_back_device(pointer, allocation.bytes);
  }
  return cudaSuccess;
}

/* Checks one side of a copy; `device`: the copy's kind says that it is device memory. */
cudaError_t check_side(const void *pointer, size_t bytes, bool device, bool pageable_too,
                       const char *call) {
  Guard guard(lock());
  const auto found = find(address(pointer));
  const bool known = found != memory().allocations.end();
  if (device != (known && !found->second.pinned))
    return fail(cudaErrorInvalidValue, "%s: %p is %sdevice memory", call, pointer,
                device ? "not " : "");
  if (!known && !pageable_too)
    return fail(cudaErrorInvalidValue,
                "%s: %p is pageable memory; asynchronous copies need pinned memory", call, pointer);
  if (known && bytes > found->second.bytes - (address(pointer) - found->first))
    return fail(cudaErrorInvalidValue, "%s: %zu bytes at %p exceed their allocation", call, bytes,
                pointer);
  return cudaSuccess;
}

struct Copy {
  void *to;
  const void *from;
  size_t bytes;
  enum cudaMemcpyKind kind;
};

bool is_device(const void *pointer) {
  Guard guard(lock());
  const auto found = find(address(pointer));
  return found != memory().allocations.end() && !found->second.pinned;
}

cudaError_t check_copy(const Copy &copy, bool pageable_too, const char *call) {
  bool to_device = copy.kind == cudaMemcpyHostToDevice || copy.kind == cudaMemcpyDeviceToDevice;
  bool from_device = copy.kind == cudaMemcpyDeviceToHost || copy.kind == cudaMemcpyDeviceToDevice;
  if (copy.kind == cudaMemcpyDefault) {
    to_device = is_device(copy.to);
    from_device = is_device(copy.from);
  }
  if (cudaError_t error = check_side(copy.to, copy.bytes, to_device, pageable_too, call))
    return error;
  return check_side(copy.from, copy.bytes, from_device, pageable_too, call);
}

cudaError_t append_checked(const Copy &copy, bool pageable_too, cudaStream_t stream,
                           const char *call) {
  if (copy.bytes == 0) return cudaSuccess;
  if (cudaError_t error = check_copy(copy, pageable_too, call)) return error;
  return append(stream, [copy] {
    memcpy(copy.to, copy.from, copy.bytes);
    return true;
  });
}

} // namespace

void memory_open() {
  if (!memory().open) set_all(true);
}

void memory_close() {
  if (memory().open) set_all(false);
}

} // namespace emulator

using namespace emulator;

int emulator_is_device_memory(const void *pointer, size_t bytes) {
  Guard guard(lock());
  const auto found = find(address(pointer));
  return found != memory().allocations.end() && !found->second.pinned &&
         bytes <= found->second.bytes - (address(pointer) - found->first);
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
  return allocate(out, bytes, false, "cudaMalloc");
}

cudaError_t cudaFree(void *pointer) {
  return release(pointer, false, "cudaFree");
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
  return allocate(out, bytes, true, "cudaMallocHost");
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
  return allocate(out, bytes, true, "cudaHostAlloc");
}

cudaError_t cudaFreeHost(void *pointer) {
  return release(pointer, true, "cudaFreeHost");
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  Guard guard(lock());
  *total_bytes = limit();
  *free_bytes = memory().used < limit() ? limit() - memory().used : 0;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Copy copy = {to, from, bytes, kind};
  return append_checked(copy, false, stream, "cudaMemcpyAsync");
}

/* Waits for the default stream only, on which it runs. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  if (cudaError_t error = refuse_in_capture("cudaMemcpy")) return error;
  const Copy copy = {to, from, bytes, kind};
  if (cudaError_t error = append_checked(copy, true, nullptr, "cudaMemcpy")) return error;
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (cudaError_t error = check_side(pointer, bytes, true, false, "cudaMemsetAsync")) return error;
  return append(stream, [=] {
    memset(pointer, value, bytes);
    return true;
  });
}

cudaError_t cudaMemset(void *pointer, int value, size_t bytes) {
  if (cudaError_t error = refuse_in_capture("cudaMemset")) return error;
  if (cudaError_t error = cudaMemsetAsync(pointer, value, bytes, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}
