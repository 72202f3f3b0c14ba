/* The names of cuDNN that headers of engine/cuda mention. Nothing of the library is emulated: where
 * it would be called, tests/emulator/convolution.c and tests/gpu/test_conv_variants.c stand in. */
#ifndef CELFORGE_TESTS_EMULATOR_CUDNN_H
#define CELFORGE_TESTS_EMULATOR_CUDNN_H

typedef enum cudnnStatus { CUDNN_STATUS_SUCCESS = 0 } cudnnStatus_t;
typedef struct cudnnContext *cudnnHandle_t;
typedef void *cudnnBackendDescriptor_t;

#endif
