/* The cuDNN names that headers of engine/cuda use. No function of the library is emulated:
 * tests/emulator/convolution.c and tests/gpu/test_conv_variants.c replace its callers. */
#ifndef CELFORGE_TESTS_EMULATOR_CUDNN_H
#define CELFORGE_TESTS_EMULATOR_CUDNN_H

#include <stddef.h>

typedef enum cudnnStatus { CUDNN_STATUS_SUCCESS = 0 } cudnnStatus_t;
typedef struct cudnnContext *cudnnHandle_t;
typedef void *cudnnBackendDescriptor_t;

size_t cudnnGetVersion(void); /* defined by the test that needs it */

#endif
