/* Sums in double, partitioned by the shape alone: the result does not depend on the number of
 * threads. The forms are those of engine/backend/broadcast.h; scatter adds each element to its
 * output. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cpu/partition.h"
#include "engine/cpu/tiles.h"

typedef enum ReduceForm { FORM_LONG_ROWS, FORM_SHORT_ROWS, FORM_COLUMNS, FORM_SCATTER } ReduceForm;

typedef struct ReduceKernel {
  Kernel base;
  TilePlan plan;
  float scale;
  ReduceForm form;
  int64_t kept, reduced, lanes;
  int64_t chunks; /* FORM_LONG_ROWS: of a row; FORM_COLUMNS: of the reduced axis */
  int64_t blocks; /* FORM_COLUMNS: of the lanes, at most TILE_LENGTH each */
  int64_t jobs;
  int64_t outputs;
  int parts;
  size_t partial_bytes; /* of partial sums, at the start of the workspace */
  /* FORM_SCATTER: stride of the output along each axis, 0 for reduced axes. */
  Shape full;
  int64_t stride[RANK];
} ReduceKernel;

enum { COLUMN_JOBS = 64 };

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

static double sum(const float *values, int64_t count) {
  double total = 0.0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; i++) total += (double)values[i];
  return total;
}

/* --- Rows ------------------------------------------------------------------------------------- */

/* Long rows: a job is one tile of one row. */
static void long_rows_job(const ReduceKernel *k, const Tensor *inputs, int64_t job,
                          double *partials, float *workspace) {
  const int64_t row = job / k->chunks, begin = job % k->chunks * TILE_LENGTH;
  const int64_t left = k->reduced - begin;
  const int64_t length = left < TILE_LENGTH ? left : TILE_LENGTH;
  const float *result;
  tile_run(&k->plan, inputs, row * k->reduced + begin, length, workspace, NULL, &result);
  partials[job] = sum(result, length);
}

/* Short rows: a job is as many rows as fit into a tile; it writes their outputs. */
static void short_rows_job(const ReduceKernel *k, const Tensor *inputs, int64_t job, float *out,
                           float *workspace) {
  const int64_t rows = TILE_LENGTH / k->reduced, first = job * rows;
  const int64_t count = k->kept - first < rows ? k->kept - first : rows;
  const float *result;
  tile_run(&k->plan, inputs, first * k->reduced, count * k->reduced, workspace, NULL, &result);
  for (int64_t i = 0; i < count; i++) {
    out[first + i] = (float)(sum(result + i * k->reduced, k->reduced) * (double)k->scale);
  }
}

static void long_rows_finish(const ReduceKernel *k, const double *partials, float *out) {
  for (int64_t row = 0; row < k->kept; row++) {
    double total = 0.0;
    for (int64_t i = 0; i < k->chunks; i++) total += partials[row * k->chunks + i];
    out[row] = (float)(total * (double)k->scale);
  }
}

/* --- Columns ---------------------------------------------------------------------------------- */

/* A job is a chunk of rows of one block of lanes of one kept index. */
static void columns_job(const ReduceKernel *k, const Tensor *inputs, int64_t job, double *partials,
                        float *workspace) {
  const int64_t chunk = job % k->chunks, block = job / k->chunks % k->blocks;
  const int64_t kept = job / k->chunks / k->blocks;
  const int64_t lane = k->lanes * block / k->blocks;
  const int64_t width = k->lanes * (block + 1) / k->blocks - lane;
  const int64_t begin = k->reduced * chunk / k->chunks;
  const int64_t end = k->reduced * (chunk + 1) / k->chunks;
  const int64_t rows_at_once = width == k->lanes ? TILE_LENGTH / width : 1;
  double *total = partials + (chunk * k->kept + kept) * k->lanes + lane;
  /* Several rows side by side, which fills vectors if there are few lanes. */
  double wide[TILE_LENGTH];
  for (int64_t i = 0; i < rows_at_once * width; i++) wide[i] = 0.0;
  for (int64_t row = begin; row < end; row += rows_at_once) {
    const int64_t rows = end - row < rows_at_once ? end - row : rows_at_once;
    const float *result;
    tile_run(&k->plan, inputs, (kept * k->reduced + row) * k->lanes + lane, rows * width, workspace,
             NULL, &result);
#pragma omp simd
    /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): width is above 0 */
    for (int64_t i = 0; i < rows * width; i++) wide[i] += (double)result[i];
  }
  for (int64_t c = 0; c < width; c++) total[c] = 0.0;
  for (int64_t i = 0; i < rows_at_once; i++) {
    /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): so all of it is set */
    for (int64_t c = 0; c < width; c++) total[c] += wide[i * width + c];
  }
}

static void columns_finish(const ReduceKernel *k, const double *partials, float *out) {
  for (int64_t o = 0; o < k->outputs; o++) {
    double total = 0.0;
    for (int64_t chunk = 0; chunk < k->chunks; chunk++) total += partials[chunk * k->outputs + o];
    out[o] = (float)(total * (double)k->scale);
  }
}

/* --- Scatter ---------------------------------------------------------------------------------- */

static int64_t scatter_place(const ReduceKernel *k, int64_t index) {
  int64_t place = 0;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    place += index % k->full.dim[axis] * k->stride[axis];
    index /= k->full.dim[axis];
  }
  return place;
}

/* A single job. */
static void scatter_job(const ReduceKernel *k, const Tensor *inputs, double *partials,
                        float *workspace) {
  const int64_t count = shape_count(k->full), channels = k->full.dim[AXIS_C];
  const int64_t most = channels < TILE_LENGTH ? channels : TILE_LENGTH;
  for (int64_t o = 0; o < k->outputs; o++) partials[o] = 0.0;
  for (int64_t i = 0; i < count;) {
    const int64_t left = channels - i % channels, length = left < most ? left : most;
    const float *result;
    tile_run(&k->plan, inputs, i, length, workspace, NULL, &result);
    double *total = partials + scatter_place(k, i);
    for (int64_t c = 0; c < length; c++) total[c * k->stride[AXIS_C]] += (double)result[c];
    i += length;
  }
}

/* --- The kernel ------------------------------------------------------------------------------- */

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)error;
  const ReduceKernel *k = (const ReduceKernel *)base;
  double *partials = workspace;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t end = cpu_part_begin(k->jobs, part + 1, k->parts);
    float *mine = (float *)(void *)((char *)workspace + k->partial_bytes +
                                    (size_t)part * tile_workspace(&k->plan));
    tile_begin(&k->plan, inputs, mine);
    for (int64_t job = cpu_part_begin(k->jobs, part, k->parts); job < end; job++) {
      if (k->form == FORM_LONG_ROWS) long_rows_job(k, inputs, job, partials, mine);
      if (k->form == FORM_SHORT_ROWS) short_rows_job(k, inputs, job, outputs[0].data, mine);
      if (k->form == FORM_COLUMNS) columns_job(k, inputs, job, partials, mine);
      if (k->form == FORM_SCATTER) scatter_job(k, inputs, partials, mine);
    }
  }
  if (k->form == FORM_LONG_ROWS) long_rows_finish(k, partials, outputs[0].data);
  if (k->form == FORM_COLUMNS || k->form == FORM_SCATTER) {
    columns_finish(k, partials, outputs[0].data);
  }
  return OK;
}

static void kernel_free(Kernel *kernel) {
  free(kernel);
}

static void find_form(ReduceKernel *k, unsigned axes) {
  const Reduction r = reduction_of(k->full, axes);
  int64_t stride = 1;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    const bool reduce = axes >> axis & 1u;
    k->stride[axis] = reduce ? 0 : stride;
    if (!reduce) stride *= k->full.dim[axis];
  }
  k->outputs = r.outputs;
  k->kept = r.kept;
  k->reduced = r.reduced;
  k->lanes = r.lanes;
  if (r.form == REDUCTION_SCATTER) {
    k->form = FORM_SCATTER;
  } else if (r.form == REDUCTION_COLUMNS) {
    k->form = FORM_COLUMNS;
  } else {
    k->form = k->reduced > TILE_LENGTH ? FORM_LONG_ROWS : FORM_SHORT_ROWS;
  }
}

static void plan_jobs(ReduceKernel *k) {
  int64_t partials = k->outputs;
  k->chunks = k->blocks = k->jobs = 1;
  if (k->form == FORM_LONG_ROWS) {
    k->chunks = divide_up(k->reduced, TILE_LENGTH);
    k->jobs = partials = k->kept * k->chunks;
  } else if (k->form == FORM_SHORT_ROWS) {
    k->jobs = divide_up(k->kept, TILE_LENGTH / k->reduced);
    partials = 0;
  } else if (k->form == FORM_COLUMNS) {
    k->blocks = divide_up(k->lanes, TILE_LENGTH);
    const int64_t wanted = divide_up(COLUMN_JOBS, k->kept * k->blocks);
    const int64_t tiles = divide_up(k->reduced * k->lanes / k->blocks, TILE_LENGTH);
    k->chunks = wanted < tiles ? wanted : tiles;
    if (k->chunks > k->reduced) k->chunks = k->reduced;
    k->jobs = k->kept * k->blocks * k->chunks;
    partials = k->chunks * k->outputs;
  }
  k->partial_bytes = memory_align((size_t)partials * sizeof(double));
}

Status cpu_reduce_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  Status status = OK;
  ReduceKernel *kernel = mem_new(1, sizeof *kernel);
  *out = NULL;
  kernel->scale = op->attributes.reduce.scale;
  kernel->full = op->attributes.reduce.full;
  find_form(kernel, op->attributes.reduce.axes);
  if (outputs[0].dtype != DTYPE_F32 || shape_count(outputs[0].shape) != kernel->outputs) {
    char have[SHAPE_TEXT_SIZE];
    FAIL(error, ERROR_INTERNAL, "%s: cpu: reduce: output is %s %s, expected %lld f32 elements",
         op->name, dtype_name(outputs[0].dtype), shape_text(outputs[0].shape, have),
         (long long)kernel->outputs);
  }
  TRY(tile_plan(&kernel->plan, op, &op->attributes.reduce.program, 1, inputs, kernel->full, error));
  plan_jobs(kernel);
  const int64_t elements = shape_count(kernel->full);
  kernel->parts = cpu_parts(backend, elements, 8 * TILE_LENGTH);
  if (kernel->parts > kernel->jobs) kernel->parts = (int)kernel->jobs;
  kernel->base = (Kernel){
      .workspace = kernel->partial_bytes + (size_t)kernel->parts * tile_workspace(&kernel->plan),
      .run = run,
      .free = kernel_free,
  };
  *out = &kernel->base;
  kernel = NULL;
done:
  free(kernel);
  return status;
}
