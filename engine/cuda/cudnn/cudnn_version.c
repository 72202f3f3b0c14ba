#include <cudnn.h>

#include "engine/cuda/runtime/cuda.h"

int cuda_cudnn_version(void) {
  return (int)cudnnGetVersion();
}
