/* The source of generated kernels, and that NVRTC compiles it. Only loading a kernel needs a
 * device. The results of the kernels are tested by test_ops.
 *
 * `test_nvrtc --keep FOLDER 90` compiles only the kernels of the configs, for sm_90, and keeps them
 * in FOLDER in the format of the cache, for tests/gpu/test_machine_code.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "engine/cuda/codegen/generate.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "tests/gpu/support_gpu.h"
#include "trainer/gan/gan.h"

static Error error;

/* --- Structure -------------------------------------------------------------------------------- */

static GeneratedSource make_source(KernelTemplate form, const Op *op, const Tensor *inputs,
                                   const Tensor *outputs, Shape full) {
  GeneratedSource source;
  if (generated_source_new(&source, form, op, &op->attributes.pointwise, inputs, outputs, full,
                           &error) != OK)
    fail_msg("%s", error.message);
  return source;
}

static int occurrences(const GeneratedSource *source, const char *what) {
  const char *at = strstr(source->text.data, "DEVICE void evaluate");
  int count = 0;
  assert_non_null(at);
  while ((at = strstr(at, what))) count++, at += strlen(what);
  return count;
}

static char sum_name[] = "sum", all_name[] = "all";

/* out = p * in0 + q + in1; input 2 is unused. */
static Op affine_sum(float p, float q) {
  Op op = {.kind = OP_POINTWISE, .name = sum_name, .input_count = 3, .output_count = 1};
  op.attributes.pointwise = (PointwiseProgram){
      .instruction_count = 2,
      .instructions = {{.code = PW_AFFINE, .a = 0, .p = p, .q = q},
                       {.code = PW_ADD, .a = 3, .b = 1}},
      .outputs = {4},
  };
  return op;
}

static GeneratedSource sum_source(float p, Shape full, Shape second, DType dtype) {
  const Op op = affine_sum(p, 1.0f);
  const Tensor x = {.shape = full, .dtype = dtype};
  const Tensor inputs[3] = {x, {.shape = second, .dtype = dtype}, x}, outputs[1] = {x};
  return make_source(TEMPLATE_POINTWISE, &op, inputs, outputs, full);
}

static void test_each_used_input_is_loaded_once(void **state) {
  (void)state;
  const Shape full = shape_make(2, 3, 4, 5, 16);
  GeneratedSource same = sum_source(2.0f, full, full, DTYPE_F32);
  assert_int_equal(same.vector, 4);
  assert_int_equal(occurrences(&same, "load(((const float *)p.inputs[0].data) + first"), 1);
  assert_int_equal(occurrences(&same, "load("), 2); /* not the unused input */
  assert_int_equal(occurrences(&same, "store("), 1);
  assert_int_equal(occurrences(&same, "at1("), 0); /* no index arithmetic */
  generated_source_free(&same);
  const struct {
    Shape second;
    InputMode mode;
  } cases[] = {
      {shape_scalar(), INPUT_SCALAR},
      {shape_vector(16), INPUT_ROW},
      {shape_make(2, 1, 1, 1, 16), INPUT_ROW},
      {shape_make(2, 3, 1, 1, 1), INPUT_REPEAT},
      {shape_make(2, 3, 4, 5, 1), INPUT_REPEAT},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    GeneratedSource source = sum_source(2.0f, full, cases[i].second, DTYPE_BF16);
    assert_int_equal(source.vector, 8);
    assert_int_equal(source.mode[1], cases[i].mode);
    assert_int_equal(source.mode[2], INPUT_UNUSED);
    generated_source_free(&source);
  }
  GeneratedSource odd = sum_source(2.0f, shape_make(1, 1, 4, 4, 3), shape_vector(3), DTYPE_BF16);
  assert_int_equal(odd.mode[1], INPUT_GATHER);
  generated_source_free(&odd);
}

static void test_source_does_not_depend_on_lengths_and_constants(void **state) {
  (void)state;
  const Shape a = shape_make(2, 3, 4, 5, 16), b = shape_make(1, 9, 7, 2, 64);
  GeneratedSource first = sum_source(2.0f, a, shape_vector(16), DTYPE_F32);
  GeneratedSource second = sum_source(-0.5f, b, shape_vector(64), DTYPE_F32);
  GeneratedSource bf16 = sum_source(2.0f, a, shape_vector(16), DTYPE_BF16);
  GeneratedSource large = sum_source(2.0f, shape_make(2, 1024, 1024, 1024, 16), shape_vector(16),
                                     DTYPE_F32); /* indices of 64 bits */
  assert_string_equal(first.text.data, second.text.data);
  assert_string_not_equal(first.text.data, bf16.text.data);
  assert_string_not_equal(first.text.data, large.text.data);
  assert_true(first.launch.constants[0][0] == 2.0f && second.launch.constants[0][0] == -0.5f);
  generated_source_free(&first);
  generated_source_free(&second);
  generated_source_free(&bf16);
  generated_source_free(&large);
}

static void test_divisors_divide(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 2, 3, 5, 7, 641, 4096, 65537, (1 << 30) + 1, INT32_MAX};
  static const uint64_t numbers[] = {0,   1,     2,        6,          639,       640,
                                     641, 65536, 1u << 30, 0x7ffffffe, 0x7fffffff};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    const Shape full = shape_make(1, 1, 1, lengths[i], 2), one = shape_make(1, 1, 1, lengths[i], 1);
    GeneratedSource source = sum_source(1.0f, full, one, DTYPE_F32);
    const struct FastDivisor d = source.launch.inputs[1].length[0];
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers && lengths[i] > 1; k++) {
      const uint64_t quotient = numbers[k] * d.multiplier >> d.shift;
      assert_int_equal(quotient, numbers[k] / (uint64_t)lengths[i]);
    }
    generated_source_free(&source);
  }
}

static void test_misaligned_inputs_use_narrow_loads(void **state) {
  (void)state;
  const Shape full = shape_make(1, 1, 1, 4, 16);
  GeneratedSource source = sum_source(1.0f, full, shape_vector(16), DTYPE_BF16);
  static _Alignas(64) char memory[256];
  for (int offset = 0; offset < 32; offset += 2) {
    const Tensor x = {.data = memory, .shape = full, .dtype = DTYPE_BF16};
    const Tensor vector = {.data = memory + offset, .shape = shape_vector(16), .dtype = DTYPE_BF16};
    const Tensor inputs[3] = {x, vector, {.data = memory + 1, .shape = full}};
    struct ProgramLaunch launch = {.vectorized = 1};
    generated_source_bind(&source, &launch, inputs, &x);
    assert_int_equal(launch.vectorized, offset % 16 == 0);
    assert_ptr_equal(launch.inputs[1].data, memory + offset);
  }
  generated_source_free(&source);
}

static void test_invalid_programs_are_rejected(void **state) {
  (void)state;
  GeneratedSource source;
  const Shape full = shape_vector(8);
  const Tensor x = {.shape = full}, odd = {.shape = shape_vector(3)};
  const Tensor inputs[3] = {x, x, x}, strange[3] = {x, odd, x};
  Op op = affine_sum(1.0f, 0.0f);
  assert_int_equal(generated_source_new(&source, TEMPLATE_POINTWISE, &op, &op.attributes.pointwise,
                                        strange, &x, full, &error),
                   ERROR_INTERNAL);
  assert_non_null(
      strstr(error.message, "sum: cuda: input 1: shape [1,1,1,1,3] does not broadcast"));
  op.attributes.pointwise.instructions[1].b = 4; /* itself */
  assert_int_equal(generated_source_new(&source, TEMPLATE_POINTWISE, &op, &op.attributes.pointwise,
                                        inputs, &x, full, &error),
                   ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "invalid pointwise program"));
}

/* --- Compiling -------------------------------------------------------------------------------- */

enum { MAJOR = 9, MINOR = 0 };

static void check_compiles(const char *name, const char *text) {
  size_t bytes = 0;
  if (nvrtc_compile(name, text, MAJOR, MINOR, &bytes, &error) != OK) {
    fail_msg("%s\n%s", error.message, text);
  }
  assert_true(bytes > 0);
}

/* Every instruction, input mode and dtype, with two outputs. */
static void test_every_instruction_compiles(void **state) {
  (void)state;
  const Shape full = shape_make(2, 3, 4, 5, 16);
  Op op = {.kind = OP_POINTWISE, .name = all_name, .input_count = 6, .output_count = 2};
  PointwiseProgram *program = &op.attributes.pointwise;
  program->instruction_count = PW_CODE_COUNT + 3;
  for (int k = 0; k < PW_CODE_COUNT; k++) {
    program->instructions[k] = (PointwiseInstruction){
        .code = (PointwiseCode)k, .a = k == 0 ? 0 : 5 + k, .b = k % 6, .p = 0.25f, .q = 1.0f};
  }
  for (int k = 0; k < 3; k++) {
    program->instructions[PW_CODE_COUNT + k] =
        (PointwiseInstruction){.code = PW_ADD, .a = 5 + PW_CODE_COUNT + k, .b = 3 + k};
  }
  program->outputs[0] = 5 + program->instruction_count;
  program->outputs[1] = 7;
  const Tensor inputs[6] = {
      {.shape = full, .dtype = DTYPE_BF16},
      {.shape = full, .dtype = DTYPE_U8},
      {.shape = full},
      {.shape = shape_vector(16)},
      {.shape = shape_make(2, 3, 1, 1, 1), .dtype = DTYPE_BF16},
      {.shape = shape_scalar()},
  };
  const Tensor outputs[2] = {{.shape = full, .dtype = DTYPE_BF16}, {.shape = full}};
  for (KernelTemplate form = TEMPLATE_POINTWISE; form <= TEMPLATE_REDUCE_SCATTER; form++) {
    op.output_count = form == TEMPLATE_POINTWISE ? 2 : 1;
    GeneratedSource source = make_source(form, &op, inputs, form ? &outputs[1] : outputs, full);
    check_compiles(source.name, source.text.data);
    generated_source_free(&source);
  }
  const Shape large = shape_make(2, 1024, 1024, 1024, 3);
  GeneratedSource wide = sum_source(2.0f, large, shape_make(1, 1024, 1, 1, 3), DTYPE_BF16);
  check_compiles(wide.name, wide.text.data);
  generated_source_free(&wide);
}

static void test_compile_errors_are_reported(void **state) {
  (void)state;
  size_t bytes = 1;
  if (gpu_is_emulated()) gpu_skip("the emulator has no NVRTC");
  assert_int_equal(nvrtc_compile("broken",
                                 "extern \"C\" __global__ void broken(int p) { missing(); }", MAJOR,
                                 MINOR, &bytes, &error),
                   ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "broken"));
  assert_non_null(strstr(error.message, "missing"));
}

/* --- The programs of the configs -------------------------------------------------------------- */

static char **sources;
static int source_count, source_capacity, op_count;
static const char *keep; /* the folder of --keep, or NULL */
static int major = MAJOR, minor = MINOR;

/* Compiles the kernel with a new Nvrtc; whether it can be loaded depends on the device. */
static void compile_to_cache(const char *folder, const GeneratedSource *source) {
  Nvrtc *nvrtc = NULL;
  NvrtcKernel *first = NULL, *second = NULL;
  if (nvrtc_new(major, minor, folder, &nvrtc, &error) != OK) fail_msg("%s", error.message);
  const Status status = nvrtc_kernel(nvrtc, source->name, source->text.data, &first, &error);
  if (status == OK) {
    assert_int_equal(nvrtc_kernel(nvrtc, source->name, source->text.data, &second, &error), OK);
    assert_ptr_equal(first, second);
  } else {
    assert_non_null(strstr(error.message, "cudaLibrary"));
  }
  nvrtc_free(nvrtc);
}

static void compile_once(const GeneratedSource *source) {
  for (int i = 0; i < source_count; i++) {
    if (strcmp(sources[i], source->text.data) == 0) return;
  }
  MEM_PUSH_SLOT(sources, source_count, source_capacity);
  sources[source_count++] = mem_string(source->text.data);
  if (keep) {
    compile_to_cache(keep, source);
  } else {
    check_compiles(source->name, source->text.data);
  }
}

static void stub_free(Kernel *kernel) {
  free(kernel);
}

/* kernel_new of a backend for planning: compiles the kernels of the CUDA backend. */
static Status record(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *why) {
  (void)backend, (void)why;
  GeneratedSource source;
  *out = mem_new(1, sizeof **out);
  (*out)->free = stub_free;
  if (op->kind != OP_POINTWISE && op->kind != OP_REDUCE) return OK;
  op_count++;
  const bool reduce = op->kind == OP_REDUCE;
  const PointwiseProgram *program =
      reduce ? &op->attributes.reduce.program : &op->attributes.pointwise;
  const KernelTemplate form = reduce ? reduction_template(op, inputs) : TEMPLATE_POINTWISE;
  const Shape full = reduce ? op->attributes.reduce.full : outputs[0].shape;
  if (generated_source_new(&source, form, op, program, inputs, outputs, full, &error) != OK) {
    fail_msg("%s", error.message);
  }
  compile_once(&source);
  generated_source_free(&source);
  return OK;
}

static bool always(Backend *backend) {
  (void)backend;
  return true;
}

static void plan_config(const char *path, Backend *backend) {
  Config config;
  Gan *gan = NULL;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  if (config_load(&config_schema, path, &config, NULL, &error) != OK) fail_msg("%s", error.message);
  const GanOptions options = {
      .shape = {8, 128, 128, 3, 128, 128}, .micro_batches = 1, .all_reduce = true};
  const int ops = op_count, known = source_count;
  if (gan_plan(&config, backend, &options, &gan, &error) != OK) {
    fail_msg("%s: %s", path, error.message);
  }
  print_message("%s: %d ops, %d further kernels\n", path, op_count - ops, source_count - known);
  gan_free(gan);
}

static void test_programs_of_the_configs_compile(void **state) {
  (void)state;
  Backend *cpu = NULL, backend;
  glob_t found;
  if (backend_cpu_new(1, &cpu, &error) != OK) fail_msg("%s", error.message);
  backend = *cpu;
  backend.kernel_new = record;
  backend.supports_bf16 = always;
  assert_int_equal(glob("configs/*.yaml", 0, NULL, &found), 0);
  for (size_t i = 0; i < found.gl_pathc; i++) plan_config(found.gl_pathv[i], &backend);
  globfree(&found);
  cpu->free(cpu);
  for (int i = 0; i < source_count; i++) free(sources[i]);
  free(sources);
}

/* --- The cache -------------------------------------------------------------------------------- */

static char *single_entry(const char *folder) {
  char **names = NULL, *path = NULL;
  size_t count = 0;
  assert_int_equal(folder_list(folder, &names, &count, &error), OK);
  assert_int_equal(count, 1);
  path = path_join(folder, names[0]);
  folder_list_free(names, count);
  return path;
}

static void read_entry(const char *path, char **bytes, size_t *size) {
  if (file_read(path, 1 << 26, bytes, size, &error) != OK) fail_msg("%s", error.message);
}

/* An entry is written, read back, and rebuilt when it is damaged. */
static void test_damaged_cache_entries_are_rebuilt(void **state) {
  (void)state;
  if (gpu_is_emulated()) gpu_skip("the emulator has no NVRTC");
  char *folder = mem_string("/tmp/celforge-nvrtc-XXXXXX");
  assert_non_null(mkdtemp(folder));
  const Shape full = shape_vector(64);
  GeneratedSource source = sum_source(1.0f, full, full, DTYPE_F32);
  char *whole = NULL, *now = NULL;
  size_t size = 0, size_now = 0;
  compile_to_cache(folder, &source);
  char *path = single_entry(folder);
  read_entry(path, &whole, &size);
  for (int damage = 0; damage < 4; damage++) {
    const size_t cut = damage == 0 ? 0 : damage == 1 ? 10 : damage == 2 ? size / 2 : size;
    char *bytes = mem_new(size, 1);
    memcpy(bytes, whole, size);
    if (damage == 3) bytes[size - 100] ^= 1;
    assert_int_equal(atomic_file_replace(path, bytes, cut, &error), OK);
    compile_to_cache(folder, &source);
    read_entry(path, &now, &size_now);
    assert_int_equal(size_now, size);
    assert_memory_equal(now, whole, size);
    free(bytes);
    free(now);
  }
  free(whole);
  free(path);
  generated_source_free(&source);
  assert_int_equal(folder_remove(folder, &error), OK);
  free(folder);
}

int main(int count, char **arguments) {
  const struct CMUnitTest configs[] = {cmocka_unit_test(test_programs_of_the_configs_compile)};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_used_input_is_loaded_once),
      cmocka_unit_test(test_source_does_not_depend_on_lengths_and_constants),
      cmocka_unit_test(test_divisors_divide),
      cmocka_unit_test(test_misaligned_inputs_use_narrow_loads),
      cmocka_unit_test(test_invalid_programs_are_rejected),
      cmocka_unit_test(test_every_instruction_compiles),
      cmocka_unit_test(test_compile_errors_are_reported),
      cmocka_unit_test(test_programs_of_the_configs_compile),
      cmocka_unit_test(test_damaged_cache_entries_are_rebuilt),
  };
  if (count == 4 && strcmp(arguments[1], "--keep") == 0) {
    keep = arguments[2];
    major = atoi(arguments[3]) / 10, minor = atoi(arguments[3]) % 10;
    return cmocka_run_group_tests(configs, NULL, NULL);
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
