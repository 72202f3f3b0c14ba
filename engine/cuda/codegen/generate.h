/* Generates the CUDA source of a pointwise program or reduction: one kernel of straight-line code.
 *
 * Kernels are bound by memory bandwidth: every input is read once and every output written once. A
 * thread processes `vector` neighbouring elements (8 if a bf16 or u8 tensor is read or written,
 * else 4) in one or two 16-byte accesses (8 bytes for u8). Inputs of the full shape need no index
 * arithmetic. Indices of broadcast inputs are computed without hardware division (fast_division.h),
 * once per thread if its elements are contiguous.
 *
 * The source depends on the program's instructions, the dtypes and the kind of broadcast, but not
 * on lengths and constants, which are launch parameters, so few kernels are compiled for many
 * shapes. It includes no headers and is plain C++ except for CUDA keywords, so that a host compiler
 * accepts it as well (tests/emulator). */
#ifndef CELFORGE_ENGINE_CUDA_CODEGEN_GENERATE_H
#define CELFORGE_ENGINE_CUDA_CODEGEN_GENERATE_H

#include "base/text.h"
#include "engine/backend/backend.h"
#include "engine/backend/broadcast.h"
#include "engine/cuda/kernels/fast_division.h"

enum { GENERATED_THREADS = 256 };

/* Launch parameters, compiled here and part of every generated source. */
CODE_WITH_SOURCE(
    launch_struct_source,
    /* Broadcast strides of an input: groups of merged axes, outermost first. */
    struct LaunchInput {
      const void *data;
      struct FastDivisor length[5];
      long long stride[5];
    };
    struct LaunchAxis {
      long long length;
      long long stride; /* in the full shape, elements */
    };
    struct ProgramLaunch {
      struct LaunchInput inputs[8];
      void *outputs[4];
      float constants[24][2]; /* p and q of each instruction */
      int vectorized;         /* all addresses are aligned for accesses of `vector` elements */
      /* Pointwise kernels: elements of the full shape. */
      long long count;
      /* Reductions: sums are stored in `partials`; if it is NULL, scaled, in outputs[0]. */
      float scale;
      double *partials;
      long long jobs, reduced, lanes, sums, chunks, chunk_length, lane_blocks;
      int group;  /* threads per sum, a power of 2 */
      int active; /* threads per block that read elements */
      struct LaunchAxis kept_axes[5];
      struct LaunchAxis reduced_axes[5];
    };)

typedef enum KernelTemplate {
  TEMPLATE_POINTWISE,       /* a thread computes `vector` elements */
  TEMPLATE_REDUCE_ROWS,     /* `group` threads sum a chunk of a row */
  TEMPLATE_REDUCE_PERIODIC, /* few lanes: a block sums a chunk of all lanes */
  TEMPLATE_REDUCE_BLOCKED,  /* many lanes: a thread sums a chunk of `vector` lanes */
  TEMPLATE_REDUCE_SCATTER,  /* any axes: `group` threads sum one output, element by element */
} KernelTemplate;

/* How a thread reads its `vector` elements of an input. */
typedef enum InputMode {
  INPUT_UNUSED, /* not at all: no instruction uses the input */
  INPUT_FULL,   /* contiguous, the input has the full shape */
  INPUT_SCALAR, /* the input has one element */
  INPUT_ROW,    /* contiguous, at a computed index */
  INPUT_REPEAT, /* one element for all, at a computed index */
  INPUT_GATHER, /* at an index of its own for each element */
} InputMode;

typedef struct GeneratedSource {
  const char *name; /* of the kernel function */
  Text text;
  int vector;
  int input_count, output_count;
  InputMode mode[POINTWISE_MAX_INPUTS];
  struct ProgramLaunch launch; /* constants, lengths and strides; no addresses */
} GeneratedSource;

/* The template for an OP_REDUCE. */
KernelTemplate reduction_template(const Op *op, const Tensor *inputs);
/* TEMPLATE_REDUCE_PERIODIC: the largest number of threads of a block whose elements, `vector` each,
 * are whole rows of `lanes`; 0 if a row is longer than a block's elements. */
int periodic_active_threads(int64_t lanes, int vector);

/* `full`: the shape that inputs are broadcast to. Outputs are f32 or bf16 (a reduction has one,
 * f32). ERROR_INTERNAL naming `op` if the program is invalid or an input does not broadcast. The
 * caller frees the source, also after an error. */
Status generated_source_new(GeneratedSource *source, KernelTemplate kind, const Op *op,
                            const PointwiseProgram *program, const Tensor *inputs,
                            const Tensor *outputs, Shape full, Error *error);
void generated_source_free(GeneratedSource *source);

/* Sets the addresses in `launch`; clears launch->vectorized if one is not aligned. */
void generated_source_bind(const GeneratedSource *source, struct ProgramLaunch *launch,
                           const Tensor *inputs, const Tensor *outputs);

#endif
