/* CUDA source that all generated kernels share, as text. For generate.c. */
#ifndef CELFORGE_ENGINE_CUDA_CODEGEN_TEMPLATES_H
#define CELFORGE_ENGINE_CUDA_CODEGEN_TEMPLATES_H

extern const char template_macros[];    /* UNROLL, DEVICE, and code that depends on the compiler */
extern const char template_functions[]; /* loads, stores, one function per pointwise instruction */
extern const char template_divide_32[], template_divide_64[]; /* divide() for the Index type */
extern const char template_pointwise_begin[];   /* pointwise kernel up to the call of evaluate() */
extern const char template_pointwise_end[];     /* its rest */
extern const char template_sums[];              /* functions that all reduction kernels share */
extern const char *const template_reductions[]; /* whole kernels, by KernelTemplate */

#endif
