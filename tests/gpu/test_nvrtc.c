/* Generated kernels: what their source holds, and that the compiler takes it. No device is needed,
 * but for what loads a kernel. What they compute: test_ops.
 *
 * `test_jit --keep FOLDER 90` compiles the kernels of the configs alone, for sm_90, and leaves them
 * in FOLDER as the backend's cache does, for tests/gpu/test_machine_code.py. */
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

static ProgramSource make_source(SourceForm form, const Op *op, const Tensor *inputs,
                                 const Tensor *outputs, Shape full) {
  ProgramSource source;
  if (source_new(&source, form, op, &op->attributes.pointwise, inputs, outputs, full, &error) != OK)
    fail_msg("%s", error.message);
  return source;
}

static int occurrences(const ProgramSource *source, const char *what) {
  const char *at = strstr(source->text.data, "DEVICE void evaluate");
  int count = 0;
  assert_non_null(at);
  while ((at = strstr(at, what))) count++, at += strlen(what);
  return count;
}

static char sum_name[] = "sum", all_name[] = "all";

/* out = p * in0 + q + in1; input 2 is read by nothing. */
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

static ProgramSource sum_source(float p, Shape full, Shape second, DType dtype) {
  const Op op = affine_sum(p, 1.0f);
  const Tensor x = {.shape = full, .dtype = dtype};
  const Tensor inputs[3] = {x, {.shape = second, .dtype = dtype}, x}, outputs[1] = {x};
  return make_source(SOURCE_POINTWISE, &op, inputs, outputs, full);
}

static void test_inputs_are_read_once_as_they_lie(void **state) {
  (void)state;
  const Shape full = shape_make(2, 3, 4, 5, 16);
  ProgramSource same = sum_source(2.0f, full, full, DTYPE_F32);
  assert_int_equal(same.vector, 4);
  assert_int_equal(occurrences(&same, "load(((const float *)p.inputs[0].data) + first"), 1);
  assert_int_equal(occurrences(&same, "load("), 2); /* not the input that nothing reads */
  assert_int_equal(occurrences(&same, "store("), 1);
  assert_int_equal(occurrences(&same, "at1("), 0); /* no index arithmetic */
  source_free(&same);
  const struct {
    Shape second;
    InputMode mode;
  } cases[] = {
      {shape_scalar(), INPUT_SCALAR},
      {shape_vector(16), INPUT_ROW},
      {shape_make(2, 1, 1, 1, 16), INPUT_ROW},
      {shape_make(2, 3, 1, 1, 1), INPUT_SPREAD},
      {shape_make(2, 3, 4, 5, 1), INPUT_SPREAD},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ProgramSource source = sum_source(2.0f, full, cases[i].second, DTYPE_BF16);
    assert_int_equal(source.vector, 8);
    assert_int_equal(source.mode[1], cases[i].mode);
    assert_int_equal(source.mode[2], INPUT_UNUSED);
    source_free(&source);
  }
  ProgramSource odd = sum_source(2.0f, shape_make(1, 1, 4, 4, 3), shape_vector(3), DTYPE_BF16);
  assert_int_equal(odd.mode[1], INPUT_GATHER);
  source_free(&odd);
}

static void test_lengths_and_constants_share_a_source(void **state) {
  (void)state;
  const Shape a = shape_make(2, 3, 4, 5, 16), b = shape_make(1, 9, 7, 2, 64);
  ProgramSource first = sum_source(2.0f, a, shape_vector(16), DTYPE_F32);
  ProgramSource second = sum_source(-0.5f, b, shape_vector(64), DTYPE_F32);
  ProgramSource bf16 = sum_source(2.0f, a, shape_vector(16), DTYPE_BF16);
  ProgramSource large = sum_source(2.0f, shape_make(2, 1024, 1024, 1024, 16), shape_vector(16),
                                   DTYPE_F32); /* indices of 64 bits */
  assert_string_equal(first.text.data, second.text.data);
  assert_string_not_equal(first.text.data, bf16.text.data);
  assert_string_not_equal(first.text.data, large.text.data);
  assert_true(first.launch.constants[0][0] == 2.0f && second.launch.constants[0][0] == -0.5f);
  source_free(&first);
  source_free(&second);
  source_free(&bf16);
  source_free(&large);
}

static void test_divisors_divide(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 2, 3, 5, 7, 641, 4096, 65537, (1 << 30) + 1, INT32_MAX};
  static const uint64_t numbers[] = {0,   1,     2,        6,          639,       640,
                                     641, 65536, 1u << 30, 0x7ffffffe, 0x7fffffff};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    const Shape full = shape_make(1, 1, 1, lengths[i], 2), one = shape_make(1, 1, 1, lengths[i], 1);
    ProgramSource source = sum_source(1.0f, full, one, DTYPE_F32);
    const struct Divisor d = source.launch.inputs[1].length[0];
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers && lengths[i] > 1; k++) {
      const uint64_t quotient = numbers[k] * d.multiplier >> d.shift;
      assert_int_equal(quotient, numbers[k] / (uint64_t)lengths[i]);
    }
    source_free(&source);
  }
}

static void test_misaligned_addresses_are_not_wide(void **state) {
  (void)state;
  const Shape full = shape_make(1, 1, 1, 4, 16);
  ProgramSource source = sum_source(1.0f, full, shape_vector(16), DTYPE_BF16);
  static _Alignas(64) char memory[256];
  for (int offset = 0; offset < 32; offset += 2) {
    const Tensor x = {.data = memory, .shape = full, .dtype = DTYPE_BF16};
    const Tensor vector = {.data = memory + offset, .shape = shape_vector(16), .dtype = DTYPE_BF16};
    const Tensor inputs[3] = {x, vector, {.data = memory + 1, .shape = full}};
    struct ProgramLaunch launch = {.wide = 1};
    source_bind(&source, &launch, inputs, &x);
    assert_int_equal(launch.wide, offset % 16 == 0);
    assert_ptr_equal(launch.inputs[1].data, memory + offset);
  }
  source_free(&source);
}

static void test_wrong_programs_are_refused(void **state) {
  (void)state;
  ProgramSource source;
  const Shape full = shape_vector(8);
  const Tensor x = {.shape = full}, odd = {.shape = shape_vector(3)};
  const Tensor inputs[3] = {x, x, x}, strange[3] = {x, odd, x};
  Op op = affine_sum(1.0f, 0.0f);
  assert_int_equal(source_new(&source, SOURCE_POINTWISE, &op, &op.attributes.pointwise, strange, &x,
                              full, &error),
                   ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "sum: cuda: input 1 of shape [1,1,1,1,3]"));
  op.attributes.pointwise.instructions[1].b = 4; /* itself */
  assert_int_equal(source_new(&source, SOURCE_POINTWISE, &op, &op.attributes.pointwise, inputs, &x,
                              full, &error),
                   ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "not well formed"));
}

/* --- Compiling -------------------------------------------------------------------------------- */

enum { MAJOR = 9, MINOR = 0 };

static void check_compiles(const char *name, const char *text) {
  size_t bytes = 0;
  if (jit_compile(name, text, MAJOR, MINOR, &bytes, &error) != OK) {
    fail_msg("%s\n%s", error.message, text);
  }
  assert_true(bytes > 0);
}

/* Every instruction, every way to read an input, every dtype, two outputs. */
static void test_everything_compiles(void **state) {
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
  for (SourceForm form = SOURCE_POINTWISE; form <= SOURCE_SCATTER; form++) {
    op.output_count = form == SOURCE_POINTWISE ? 2 : 1;
    ProgramSource source = make_source(form, &op, inputs, form ? &outputs[1] : outputs, full);
    check_compiles(source.name, source.text.data);
    source_free(&source);
  }
  const Shape large = shape_make(2, 1024, 1024, 1024, 3);
  ProgramSource wide = sum_source(2.0f, large, shape_make(1, 1024, 1, 1, 3), DTYPE_BF16);
  check_compiles(wide.name, wide.text.data);
  source_free(&wide);
}

static void test_a_kernel_that_does_not_compile(void **state) {
  (void)state;
  size_t bytes = 1;
  if (gpu_is_emulated()) gpu_skip("the emulator has no NVRTC");
  assert_int_equal(jit_compile("broken",
                               "extern \"C\" __global__ void broken(int p) { missing(); }", MAJOR,
                               MINOR, &bytes, &error),
                   ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "broken"));
  assert_non_null(strstr(error.message, "missing"));
}

/* --- The programs of the configs -------------------------------------------------------------- */

static char **sources;
static int source_count, source_capacity, op_count;
static const char *keep; /* a folder or NULL */
static int major = MAJOR, minor = MINOR;

/* Asks a new Jit for the kernel; whether it loads depends on the device. */
static void ask(const char *folder, const ProgramSource *source) {
  Jit *jit = NULL;
  JitKernel *first = NULL, *second = NULL;
  if (jit_new(major, minor, folder, &jit, &error) != OK) fail_msg("%s", error.message);
  const Status status = jit_kernel(jit, source->name, source->text.data, &first, &error);
  if (status == OK) {
    assert_int_equal(jit_kernel(jit, source->name, source->text.data, &second, &error), OK);
    assert_ptr_equal(first, second);
  } else {
    assert_non_null(strstr(error.message, "cudaLibrary"));
  }
  jit_free(jit);
}

static void compile_once(const ProgramSource *source) {
  for (int i = 0; i < source_count; i++) {
    if (strcmp(sources[i], source->text.data) == 0) return;
  }
  MEM_PUSH_SLOT(sources, source_count, source_capacity);
  sources[source_count++] = mem_string(source->text.data);
  if (keep) {
    ask(keep, source);
  } else {
    check_compiles(source->name, source->text.data);
  }
}

static void stub_free(Kernel *kernel) {
  free(kernel);
}

/* A backend for planning alone, which compiles what the CUDA backend would. */
static Status record(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *why) {
  (void)backend, (void)why;
  ProgramSource source;
  *out = mem_new(1, sizeof **out);
  (*out)->free = stub_free;
  if (op->kind != OP_POINTWISE && op->kind != OP_REDUCE) return OK;
  op_count++;
  const bool reduce = op->kind == OP_REDUCE;
  const PointwiseProgram *program =
      reduce ? &op->attributes.reduce.program : &op->attributes.pointwise;
  const SourceForm form = reduce ? source_reduction_form(op, inputs) : SOURCE_POINTWISE;
  const Shape full = reduce ? op->attributes.reduce.full : outputs[0].shape;
  if (source_new(&source, form, op, program, inputs, outputs, full, &error) != OK) {
    fail_msg("%s", error.message);
  }
  compile_once(&source);
  source_free(&source);
  return OK;
}

static bool always(Backend *backend) {
  (void)backend;
  return true;
}

static void plan_config(const char *path, Backend *backend) {
  Config config;
  Gan *model = NULL;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  if (config_load(&config_schema, path, &config, &error) != OK) fail_msg("%s", error.message);
  const GanOptions options = {
      .shape = {8, 128, 128, 3, 128, 128}, .micro_batches = 1, .all_reduce = true};
  const int ops = op_count, known = source_count;
  if (gan_plan(&config, backend, &options, &model, &error) != OK) {
    fail_msg("%s: %s", path, error.message);
  }
  print_message("%s: %d ops, %d more kernels\n", path, op_count - ops, source_count - known);
  gan_free(model);
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

static char *only_entry(const char *folder) {
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

/* Kept, taken as it is, and made again when its bytes are not what they were. */
static void test_damaged_entries_are_made_again(void **state) {
  (void)state;
  if (gpu_is_emulated()) gpu_skip("the emulator has no NVRTC");
  char *folder = mem_string("/tmp/celforge-jit-XXXXXX");
  assert_non_null(mkdtemp(folder));
  const Shape full = shape_vector(64);
  ProgramSource source = sum_source(1.0f, full, full, DTYPE_F32);
  char *whole = NULL, *now = NULL;
  size_t size = 0, size_now = 0;
  ask(folder, &source);
  char *path = only_entry(folder);
  read_entry(path, &whole, &size);
  for (int damage = 0; damage < 4; damage++) {
    const size_t cut = damage == 0 ? 0 : damage == 1 ? 10 : damage == 2 ? size / 2 : size;
    char *bytes = mem_new(size, 1);
    memcpy(bytes, whole, size);
    if (damage == 3) bytes[size - 100] ^= 1;
    assert_int_equal(atomic_file_replace(path, bytes, cut, &error), OK);
    ask(folder, &source);
    read_entry(path, &now, &size_now);
    assert_int_equal(size_now, size);
    assert_memory_equal(now, whole, size);
    free(bytes);
    free(now);
  }
  free(whole);
  free(path);
  source_free(&source);
  assert_int_equal(folder_remove(folder, &error), OK);
  free(folder);
}

int main(int count, char **arguments) {
  const struct CMUnitTest configs[] = {cmocka_unit_test(test_programs_of_the_configs_compile)};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_inputs_are_read_once_as_they_lie),
      cmocka_unit_test(test_lengths_and_constants_share_a_source),
      cmocka_unit_test(test_divisors_divide),
      cmocka_unit_test(test_misaligned_addresses_are_not_wide),
      cmocka_unit_test(test_wrong_programs_are_refused),
      cmocka_unit_test(test_everything_compiles),
      cmocka_unit_test(test_a_kernel_that_does_not_compile),
      cmocka_unit_test(test_programs_of_the_configs_compile),
      cmocka_unit_test(test_damaged_entries_are_made_again),
  };
  if (count == 4 && strcmp(arguments[1], "--keep") == 0) {
    keep = arguments[2];
    major = atoi(arguments[3]) / 10, minor = atoi(arguments[3]) % 10;
    return cmocka_run_group_tests(configs, NULL, NULL);
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
