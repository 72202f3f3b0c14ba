/* The parts of generated kernels that are the same in all of them, as text. For source.c. */
#ifndef CELFORGE_ENGINE_CUDA_CODEGEN_TEMPLATES_H
#define CELFORGE_ENGINE_CUDA_CODEGEN_TEMPLATES_H

extern const char source_words[];     /* macros, and what depends on the compiler */
extern const char source_functions[]; /* loads, stores, and a function for each instruction */
extern const char source_divide_narrow[], source_divide_wide[]; /* of 32 and of 64 bits */
extern const char source_pointwise_begin[];   /* up to what computes elements [first, first + n) */
extern const char source_pointwise_end[];     /* the kernel from there on */
extern const char source_sums[];              /* what the reducing kernels share */
extern const char *const source_reductions[]; /* whole kernels, by SourceForm */

#endif
