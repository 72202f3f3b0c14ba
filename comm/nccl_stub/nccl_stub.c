/* Replaces comm/nccl/nccl.c in a build without CUDA. */
#include "comm/nccl.h"

static Status refuse(Error *error) {
  return error_set(error, ERROR_USAGE,
                   "this build has no NCCL (make found no CUDA toolkit, or WITH_CUDA=0)");
}

Status nccl_open(Comm *comm, const NcclOptions *options, Nccl **out, Error *error) {
  (void)comm, (void)options;
  *out = NULL;
  return refuse(error);
}

/* nccl_open always fails: the functions below are never called with a group. */
void nccl_close(Nccl *nccl) {
  (void)nccl;
}
void nccl_abort(Nccl *nccl) {
  (void)nccl;
}
Status nccl_register(Nccl *nccl, void *data, size_t bytes, Error *error) {
  (void)nccl, (void)data, (void)bytes;
  return refuse(error);
}
Status nccl_all_reduce_mean_start(Nccl *nccl, void *data, int64_t count, CommType type,
                                  void *stream, Error *error) {
  (void)nccl, (void)data, (void)count, (void)type, (void)stream;
  return refuse(error);
}
Status nccl_all_reduce_mean_wait(Nccl *nccl, void *stream, Error *error) {
  (void)nccl, (void)stream;
  return refuse(error);
}
Status nccl_check(Nccl *nccl, Error *error) {
  (void)nccl;
  return refuse(error);
}
Status nccl_exposed_seconds(Nccl *nccl, double *seconds, Error *error) {
  (void)nccl;
  *seconds = 0;
  return refuse(error);
}
