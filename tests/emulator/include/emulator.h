/* Emulator functions beyond the CUDA runtime, for the stand-ins of cuDNN and NCCL, and for tests.
 */
#ifndef CELFORGE_TESTS_EMULATOR_EMULATOR_H
#define CELFORGE_TESTS_EMULATOR_EMULATOR_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Work on a stream. Returns true when done; false (a message has not arrived, for example) lets
 * other streams run, and it is called again. Runs on the emulator's device thread, may access
 * device memory, and must not call the CUDA runtime. */
typedef bool EmulatorWork(void *context);

/* Enqueues work on the stream. May be captured like a kernel; it then runs at each launch of the
 * graph. `work` gets the address of a copy of the `bytes` at `context`, aligned to 16. */
cudaError_t emulator_enqueue_copy(cudaStream_t stream, EmulatorWork *work, const void *context,
                                  size_t bytes);

/* If the stream is being captured, returns 1, and calls release(context) once when the last graph
 * made from that capture is destroyed. Else returns 0 and does nothing. */
int emulator_hold_by_graph(cudaStream_t stream, void (*release)(void *context), void *context);

/* True if all `bytes` are inside one allocation of device memory. */
int emulator_is_device_memory(const void *memory, size_t bytes);

/* The number of calls of a runtime function in this process so far; "kernel" counts kernel launches
 * by the host. Cheap functions that are allowed everywhere are not counted. */
uint64_t emulator_calls(const char *name);

#ifdef __cplusplus
}
#endif

#endif
