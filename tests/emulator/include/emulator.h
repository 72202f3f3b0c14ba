/* Work of other libraries' stand-ins (cuDNN, NCCL) on the emulator's streams. */
#ifndef CELFORGE_TESTS_EMULATOR_EMULATOR_H
#define CELFORGE_TESTS_EMULATOR_EMULATOR_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Says whether the work is done. Where it is not, as with a message that has not arrived, other
 * streams go on and it is called again. It runs on the emulator's own thread, may touch device
 * memory, and may not call the CUDA runtime. */
typedef bool EmulatorWork(void *context);

/* Behind the stream's work; may be captured like a kernel, and is then called at each launch. The
 * first leaves `context` to the caller; the second takes a copy of its `bytes`, aligned to 16. */
cudaError_t emulator_enqueue(cudaStream_t stream, EmulatorWork *work, void *context);
cudaError_t emulator_enqueue_copy(cudaStream_t stream, EmulatorWork *work, const void *context,
                                  size_t bytes);

/* Where the stream is being captured, `release` is called once with `context` when the last graph
 * made of that capture is gone; else, 0 is the answer and nothing comes of it. */
int emulator_hold_by_graph(cudaStream_t stream, void (*release)(void *context), void *context);

/* Whether all of it lies in one allocation of device memory. */
int emulator_is_device_memory(const void *memory, size_t bytes);

/* How often the process has called this function of the runtime so far; "kernel" counts launches by
 * the host. Functions that are allowed anywhere and cost little are not counted. */
uint64_t emulator_calls(const char *name);

#ifdef __cplusplus
}
#endif

#endif
