/* Runs a pointwise program over a tile of a flattened tensor.
 *
 * A tile is at most TILE_LENGTH elements, so that all registers stay in the L1 cache. Inputs are
 * converted to f32 and broadcast when they are loaded: f32 inputs of the full shape are read in
 * place, scalars and short repeating vectors are expanded once (tile_begin), everything else is
 * gathered for each tile. Each instruction is one SIMD loop. */
#ifndef CELFORGE_ENGINE_CPU_TILES_H
#define CELFORGE_ENGINE_CPU_TILES_H

#include "engine/backend/broadcast.h"
#include "engine/cpu/cpu.h"

enum { TILE_LENGTH = 1024, TILE_MAX_PERIOD = 2048 };
enum { TILE_REGISTERS = POINTWISE_MAX_INPUTS + POINTWISE_MAX_INSTRUCTIONS };

typedef enum TileInputKind {
  TILE_IN_PLACE, /* f32, full shape */
  TILE_FULL,     /* full shape, copied or converted */
  TILE_SCALAR,
  TILE_PERIODIC, /* repeats every `period` elements */
  TILE_GENERAL,  /* any broadcast */
} TileInputKind;

typedef struct TileInput {
  TileInputKind kind;
  DType dtype;
  int64_t period;
  Broadcast axes;
} TileInput;

typedef struct TilePlan {
  PointwiseProgram program;
  int input_count, output_count;
  TileInput inputs[POINTWISE_MAX_INPUTS];
  int64_t offset[TILE_REGISTERS]; /* of each register in the workspace; floats */
  int64_t floats;                 /* of workspace for one thread */
  int direct;                     /* the only output of the last instruction, or -1 */
} TilePlan;

/* `full` is the shape to which inputs are broadcast. ERROR_INTERNAL naming `op` for an input that
 * does not broadcast, or a program that is not well formed. */
Status tile_plan(TilePlan *plan, const Op *op, const PointwiseProgram *program, int output_count,
                 const Tensor *inputs, Shape full, Error *error);
static inline size_t tile_workspace(const TilePlan *plan) {
  return memory_align((size_t)plan->floats * sizeof(float));
}

/* Expands scalars and repeating vectors; call it once for each thread and run. */
void tile_begin(const TilePlan *plan, const Tensor *inputs, float *workspace);

/* Computes elements [first, first + length); results[k] points to output k. If `direct` is not
 * NULL, output plan->direct is written there, in the last instruction, and results[plan->direct] is
 * `direct`. */
void tile_run(const TilePlan *plan, const Tensor *inputs, int64_t first, int64_t length,
              float *workspace, float *direct, const float **results);

#endif
