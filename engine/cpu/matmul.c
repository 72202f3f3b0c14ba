/* Matrix products, by oneDNN. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cpu/convolution/onednn.h"
#include "engine/cpu/cpu.h"

typedef struct MatmulKernel {
  Kernel base;
  MatmulPrimitive *primitive;
} MatmulKernel;

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  const MatmulKernel *k = (const MatmulKernel *)base;
  return matmul_primitive_run(k->primitive, inputs[0].data, inputs[1].data, outputs[0].data,
                              workspace, error);
}

static void kernel_free(Kernel *base) {
  matmul_primitive_free(((MatmulKernel *)base)->primitive);
  free(base);
}

Status cpu_matmul_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  Status status = OK;
  MatmulArguments arguments;
  MatmulKernel *k = mem_new(1, sizeof *k);
  *out = NULL;
  TRY(matmul_arguments(op, inputs, outputs, backend->name, &arguments, error));
  TRY(matmul_primitive_new(cpu_onednn(backend), &arguments, op->name, &k->primitive, error));
  k->base = (Kernel){
      .workspace = matmul_primitive_workspace(k->primitive), .run = run, .free = kernel_free};
  *out = &k->base;
  k = NULL;
done:
  if (k) kernel_free(&k->base);
  return status;
}
