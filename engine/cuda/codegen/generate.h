/* CUDA source for pointwise programs: one kernel for each program, of straight-line code.
 *
 * The floor is memory: every input is read once and every output written once, at full bandwidth.
 * A thread takes `vector` neighbouring elements (8 where a tensor of bf16 or u8 is read or written,
 * else 4), which are one or two accesses of 16 bytes (8 bytes for u8). Inputs of the full shape are
 * read without index arithmetic, broadcast ones by multiplications in place of divisions, once for
 * a thread wherever its elements lie in one run.
 *
 * The source depends on the program's instructions, the dtypes and on how inputs are broadcast, not
 * on lengths or constants, which are parameters: few sources serve many shapes. It includes nothing
 * and is C++ without anything but CUDA's words, so that a host's compiler takes it as well. */
#ifndef CELFORGE_ENGINE_CUDA_CODEGEN_GENERATE_H
#define CELFORGE_ENGINE_CUDA_CODEGEN_GENERATE_H

#include "base/text.h"
#include "engine/backend/backend.h"
#include "engine/backend/broadcast.h"
#include "engine/cuda/kernels/fast_division.h"

enum { SOURCE_THREADS = 256 };

/* What a launch is given. */
SOURCE_AND_CODE(
    launch_source,
    /* Joined axes, outermost first. */
    struct LaunchInput {
      const void *data;
      struct Divisor length[5];
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
      int wide;               /* every address is aligned to its access of `vector` elements */
      /* Of pointwise kernels. */
      long long count;
      /* Of reductions: sums go to `partials`, or where that is NULL, scaled to outputs[0]. */
      float scale;
      double *partials;
      long long jobs, reduced, lanes, sums, pieces, piece_length, lane_blocks;
      int group;  /* threads for one sum, a power of 2 */
      int active; /* threads that take elements */
      struct LaunchAxis kept_axes[5];
      struct LaunchAxis reduced_axes[5];
    };)

typedef enum SourceForm {
  SOURCE_POINTWISE, /* a thread computes `vector` elements */
  SOURCE_ROWS,      /* `group` threads sum a piece of a row */
  SOURCE_PERIODIC,  /* a block sums a piece of all lanes, rows side by side: few lanes */
  SOURCE_BLOCKED,   /* a thread sums a piece of `vector` lanes: many lanes */
  SOURCE_SCATTER, /* `group` threads sum one output's elements, one at a time, wherever they lie */
} SourceForm;

typedef enum InputMode {
  INPUT_UNUSED, /* no instruction reads it */
  INPUT_FULL,   /* the full shape */
  INPUT_SCALAR, /* one element */
  INPUT_ROW,    /* a thread's elements are neighbours in the input, too */
  INPUT_SPREAD, /* a thread's elements are one element of the input */
  INPUT_GATHER, /* each element has an index of its own */
} InputMode;

typedef struct ProgramSource {
  const char *name; /* of the kernel */
  Text text;
  int vector;
  int input_count, output_count;
  InputMode mode[POINTWISE_MAX_INPUTS];
  struct ProgramLaunch launch; /* inputs without addresses, and constants */
} ProgramSource;

/* The form of an OP_REDUCE. */
SourceForm source_reduction_form(const Op *op, const Tensor *inputs);
/* The threads of a block that whole rows of `lanes` keep busy, `vector` elements each; 0: a row is
 * more than a block's. */
int source_active_threads(int64_t lanes, int vector);

/* `full`: the shape inputs are broadcast to. Outputs are f32 or bf16 (of a reduction: one, f32).
 * What is not well formed is ERROR_INTERNAL naming `op`. */
Status source_new(ProgramSource *source, SourceForm form, const Op *op,
                  const PointwiseProgram *program, const Tensor *inputs, const Tensor *outputs,
                  Shape full, Error *error);
void source_free(ProgramSource *source);

/* Fills in addresses; `wide` stays set only where all of them are aligned. */
void source_bind(const ProgramSource *source, struct ProgramLaunch *launch, const Tensor *inputs,
                 const Tensor *outputs);

#endif
