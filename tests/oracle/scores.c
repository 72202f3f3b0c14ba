/* The pieces of FID and KID, for the comparison with clean-fid and pytorch-fid.
 *
 *   scores INPUTS OUTPUTS WEIGHTS SUBSET_SIZE
 *
 * Reads "frames" [N,H,W,3] in 0 to 255 and two sets of features, "x" and "y" [count,length], f32.
 * Writes the resized "images" [N,299,299,3] and their "features" [N,2048] by Inception with
 * WEIGHTS, f32, and "fid" and "kid" of x and y, f64, the latter with subsets of at most
 * SUBSET_SIZE. */
#include <stdio.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "checkpoints/safetensors.h"
#include "engine/cpu/cpu.h"
#include "trainer/eval/bicubic_resize.h"
#include "trainer/eval/inception.h"
#include "trainer/eval/kernel_distance.h"

enum { IMAGE = INCEPTION_SIDE * INCEPTION_SIDE * 3, THREADS = 2 };

typedef struct Job {
  const char *weights;
  int64_t subset_size, frames;
  Safetensors *inputs;
  float *images, *features;
  double fid, kid;
} Job;

static Status find(const Job *job, const char *name, const NamedTensor **out, Error *error) {
  *out = safetensors_find(job->inputs, name);
  return *out ? OK : error_set(error, ERROR_DATA, "\"%s\" is missing", name);
}

static Status resize(Job *job, Error *error) {
  Status status = OK;
  const NamedTensor *frames = NULL;
  uint8_t *rgb = NULL;
  TRY(find(job, "frames", &frames, error));
  job->frames = frames->shape[0];
  int64_t pixels = frames->shape[1] * frames->shape[2] * 3;
  TRY(mem_bulk((size_t)pixels, "a frame", (void **)&rgb, error));
  TRY(mem_bulk((size_t)job->frames * IMAGE * sizeof(float), "images", (void **)&job->images,
               error));
  for (int64_t n = 0; n < job->frames; n++) {
    const float *values = (const float *)frames->data + n * pixels;
    for (int64_t i = 0; i < pixels; i++) rgb[i] = (uint8_t)values[i];
    TRY(bicubic_resize(rgb, (int)frames->shape[1], (int)frames->shape[2], INCEPTION_SIDE,
                       job->images + n * IMAGE, error));
  }
done:
  free(rgb);
  return status;
}

static Status features(Job *job, Error *error) {
  Status status = OK;
  Backend *backend = NULL;
  Inception *network = NULL;
  float *images = NULL;
  TRY(mem_bulk(sizeof(float) * IMAGE, "an image", (void **)&images, error));
  TRY(mem_bulk((size_t)job->frames * INCEPTION_FEATURES * sizeof(float), "features",
               (void **)&job->features, error));
  TRY(backend_cpu_new(THREADS, &backend, error));
  TRY(inception_new(backend, job->weights, &network, error));
  for (int64_t n = 0; n < job->frames; n++) {
    for (int64_t i = 0; i < IMAGE; i++) images[i] = (job->images[n * IMAGE + i] - 128) / 128;
    TRY(inception_run(network, images, 1, job->features + n * INCEPTION_FEATURES, error));
  }
done:
  inception_free(network);
  if (backend) backend->free(backend);
  free(images);
  return status;
}

static Status copy_set(const Job *job, const char *name, FeatureSet *out, Error *error) {
  Status status = OK;
  const NamedTensor *tensor = NULL;
  TRY(find(job, name, &tensor, error));
  *out = (FeatureSet){.count = tensor->shape[0], .length = tensor->shape[1]};
  TRY(mem_bulk(named_tensor_bytes(tensor), "features", (void **)&out->values, error));
  for (int64_t i = 0; i < out->count * out->length; i++)
    out->values[i] = ((const float *)tensor->data)[i];
done:
  return status;
}

static Status distances(Job *job, Error *error) {
  Status status = OK;
  FeatureSet x = {0}, y = {0};
  TRY(copy_set(job, "x", &x, error));
  TRY(copy_set(job, "y", &y, error));
  TRY(frechet_distance(&x, &y, THREADS, &job->fid, error));
  TRY(kernel_distance(&x, &y, job->subset_size, THREADS, &job->kid, error));
done:
  free(x.values);
  free(y.values);
  return status;
}

static Status run(Job *job, const char *inputs, const char *outputs, Error *error) {
  Status status = OK;
  TRY(safetensors_open(inputs, &job->inputs, error));
  TRY(resize(job, error));
  TRY(features(job, error));
  TRY(distances(job, error));
  const NamedTensor results[] = {
      {"images", TENSOR_F32, 4, {job->frames, INCEPTION_SIDE, INCEPTION_SIDE, 3}, job->images},
      {"features", TENSOR_F32, 2, {job->frames, INCEPTION_FEATURES}, job->features},
      {"fid", TENSOR_F64, 1, {1}, &job->fid},
      {"kid", TENSOR_F64, 1, {1}, &job->kid}};
  TRY(safetensors_write(outputs, results, 4, NULL, NULL, NULL, error));
done:
  safetensors_close(job->inputs);
  free(job->images);
  free(job->features);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != 5) {
    fprintf(stderr, "scores: %d arguments given, 4 expected; see the head of scores.c\n", argc - 1);
    return ERROR_USAGE;
  }
  Job job = {.weights = argv[3], .subset_size = strtol(argv[4], NULL, 10)};
  Status status = run(&job, argv[1], argv[2], &error);
  if (status != OK) fprintf(stderr, "scores: %s\n", error.message);
  return (int)status;
}
