#include "engine/cuda/nvrtc/nvrtc.h"

#include <dlfcn.h>
#include <nvrtc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "engine/cuda/runtime/cuda.h"

struct NvrtcKernel {
  char *name, *source;
  cudaLibrary_t library; /* NULL until loaded */
  cudaKernel_t kernel;
  NvrtcKernel *next;
};

struct Nvrtc {
  int major, minor;
  char *folder; /* of the cache; NULL: none */
  NvrtcKernel *kernels;
};

enum { MAX_ENTRY_BYTES = 64 << 20 };

/* --- Compiling -------------------------------------------------------------------------------- */
/* Loads libnvrtc-builtins from NVRTC's own folder. NVRTC opens it by name alone, which fails where
 * the folder is not on the linker's search path (as in a Python package) unless it is loaded
 * already. */
static void load_builtins(void) {
  int major = 0, minor = 0;
  Dl_info library = {0};
  void *here = dlsym(RTLD_DEFAULT, "nvrtcVersion");
  if (!here || dladdr(here, &library) == 0 || !library.dli_fname) return;
  const char *slash = strrchr(library.dli_fname, '/');
  if (!slash || nvrtcVersion(&major, &minor) != NVRTC_SUCCESS) return;
  char *path = mem_format("%.*s/libnvrtc-builtins.so.%d.%d", (int)(slash - library.dli_fname),
                          library.dli_fname, major, minor);
  (void)dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* never closed */
  free(path);
}

typedef struct Code {
  char *bytes;
  size_t size;
} Code;

/* "sm_90": machine code for the device; or "compute_121", PTX that the driver compiles, where the
 * device is newer than the compiler. */
static Status find_target(int major, int minor, char target[32], Error *error) {
  Status status = OK;
  int count = 0, *known = NULL, best = 0;
  const int wanted = major * 10 + minor;
  nvrtcResult result = nvrtcGetNumSupportedArchs(&count);
  known = mem_new((size_t)count + 1, sizeof *known);
  if (result == NVRTC_SUCCESS) result = nvrtcGetSupportedArchs(known);
  if (result != NVRTC_SUCCESS) {
    FAIL(error, ERROR_INTERNAL, "nvrtcGetSupportedArchs: %s", nvrtcGetErrorString(result));
  }
  for (int i = 0; i < count; i++) {
    if (known[i] <= wanted && known[i] > best) best = known[i];
  }
  if (best == 0) {
    FAIL(error, ERROR_INTERNAL,
         "NVRTC does not support the device's architecture: sm_%d, at least sm_%d expected. "
         "Install an older CUDA toolkit",
         wanted, known[0]);
  }
  snprintf(target, 32, "%s_%d", best == wanted ? "sm" : "compute", best);
done:
  free(known);
  return status;
}

static Status version_text(char version[32], Error *error) {
  int major = 0, minor = 0;
  const nvrtcResult result = nvrtcVersion(&major, &minor);
  if (result != NVRTC_SUCCESS) {
    return error_set(error, ERROR_INTERNAL, "nvrtcVersion: %s", nvrtcGetErrorString(result));
  }
  snprintf(version, 32, "%d.%d", major, minor);
  return OK;
}

static Status compile_failed(nvrtcProgram program, const char *name, nvrtcResult result,
                             Error *error) {
  size_t size = 0;
  char *log = NULL;
  if (program && nvrtcGetProgramLogSize(program, &size) == NVRTC_SUCCESS && size > 1) {
    log = mem_new(size + 1, 1);
    if (nvrtcGetProgramLog(program, log) != NVRTC_SUCCESS) log[0] = '\0';
  }
  const Status status = error_set(error, ERROR_INTERNAL, "kernel %s does not compile: %s\n%s", name,
                                  nvrtcGetErrorString(result), log ? log : "");
  free(log);
  return status;
}

static nvrtcResult take_code(nvrtcProgram program, bool binary, Code *code) {
  nvrtcResult result =
      binary ? nvrtcGetCUBINSize(program, &code->size) : nvrtcGetPTXSize(program, &code->size);
  if (result != NVRTC_SUCCESS) return result;
  code->bytes = mem_new(code->size + 1, 1);
  return binary ? nvrtcGetCUBIN(program, code->bytes) : nvrtcGetPTX(program, code->bytes);
}

/* The same arithmetic as the CPU kernels: correctly rounded division and square root, denormals,
 * and multiply-adds that are fused only where the source says fmaf: otherwise a product would be
 * rounded or not depending on whether its reader is in the same kernel. */
static Status compile(const char *name, const char *source, const char *target, Code *code,
                      Error *error) {
  Status status = OK;
  nvrtcProgram program = NULL;
  char file[64], architecture[64];
  snprintf(file, sizeof file, "%s.cu", name);
  snprintf(architecture, sizeof architecture, "--gpu-architecture=%s", target);
  const char *options[] = {architecture,        "--std=c++17",      "--fmad=false",
                           "--prec-div=true",   "--prec-sqrt=true", "--ftz=false",
                           "--disable-warnings" /* about unused functions */};
  *code = (Code){0};
  nvrtcResult result = nvrtcCreateProgram(&program, source, file, 0, NULL, NULL);
  if (result == NVRTC_SUCCESS) {
    result = nvrtcCompileProgram(program, (int)(sizeof options / sizeof *options), options);
  }
  if (result == NVRTC_SUCCESS) result = take_code(program, target[0] == 's', code);
  if (result != NVRTC_SUCCESS) TRY(compile_failed(program, name, result, error));
done:
  if (program) nvrtcDestroyProgram(&program);
  if (status != OK) {
    free(code->bytes);
    *code = (Code){0};
  }
  return status;
}

/* --- The cache on disk ------------------------------------------------------------------------ */
/* A file holds the line "celforge-kernel 1 KEY_BYTES CODE_BYTES CRC32C\n", the key (target,
 * compiler version, name, source) and the code; the checksum covers key and code. The file name is
 * a hash of the key; the key itself is compared, so a hash collision is harmless. */
#define ENTRY_FORMAT "celforge-kernel 1 %zu %zu %08x\n"

static Text key_text(const char *name, const char *source, const char *target,
                     const char *version) {
  Text key = {0};
  text_append(&key, "%s %s %s\n%s", target, version, name, source);
  return key;
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo; RFC 9923). */
static char *entry_path(const char *folder, const Text *key) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < key->length; i++) {
    hash = (hash ^ (unsigned char)key->data[i]) * UINT64_C(0x100000001b3);
  }
  return mem_format("%s/%016llx.kernel", folder, (unsigned long long)hash);
}

static uint32_t entry_checksum(const Text *key, const char *code, size_t size) {
  return crc32c(crc32c(0, key->data, key->length), code, size);
}

/* True where `path` holds undamaged code for `key`. */
static bool entry_read(const char *path, const Text *key, Code *code) {
  Error why;
  char *bytes = NULL, head[96];
  size_t size = 0;
  bool found = false;
  *code = (Code){0};
  Status status = path_exists(path, &found, &why);
  if (status == OK && !found) return false;
  found = false;
  if (status != OK || file_read(path, MAX_ENTRY_BYTES, &bytes, &size, &why) != OK) {
    log_warning("%s; compiling the kernel again", why.message);
    return false;
  }
  const char *line_end = memchr(bytes, '\n', size);
  const size_t head_size = line_end ? (size_t)(line_end - bytes) + 1 : 0;
  if (line_end && head_size + key->length < size) {
    const char *from = bytes + head_size + key->length;
    const size_t rest = size - head_size - key->length;
    const uint32_t checksum = entry_checksum(key, from, rest);
    snprintf(head, sizeof head, ENTRY_FORMAT, key->length, rest, checksum);
    found = strlen(head) == head_size && memcmp(head, bytes, head_size) == 0 &&
            memcmp(bytes + head_size, key->data, key->length) == 0;
    if (found) {
      code->bytes = mem_new(rest + 1, 1);
      memcpy(code->bytes, from, rest);
      code->size = rest;
    }
  }
  if (!found) log_warning("%s: damaged, or another kernel; compiling the kernel again", path);
  free(bytes);
  return found;
}

/* A failed write costs time at the next start, nothing else. */
static void entry_write(const char *path, const Text *key, const Code *code) {
  Error why;
  Text entry = {0};
  text_append(&entry, ENTRY_FORMAT, key->length, code->size,
              entry_checksum(key, code->bytes, code->size));
  text_append_bytes(&entry, key->data, key->length);
  text_append_bytes(&entry, code->bytes, code->size);
  if (atomic_file_replace(path, entry.data, entry.length, &why) != OK) {
    log_warning("%s; the compiled kernel is not cached", why.message);
  }
  text_free(&entry);
}

static Status find_code(const Nvrtc *nvrtc, const char *name, const char *source, Code *code,
                        Error *error) {
  Status status = OK;
  Text key = {0};
  char *path = NULL, target[32], version[32];
  TRY(find_target(nvrtc->major, nvrtc->minor, target, error));
  TRY(version_text(version, error));
  key = key_text(name, source, target, version);
  if (nvrtc->folder) path = entry_path(nvrtc->folder, &key);
  if (path && entry_read(path, &key, code)) goto done;
  TRY(compile(name, source, target, code, error));
  if (path) entry_write(path, &key, code);
done:
  text_free(&key);
  free(path);
  return status;
}

/* --- Kernels ---------------------------------------------------------------------------------- */
static void kernel_free(NvrtcKernel *kernel) {
  if (kernel->library) (void)cudaLibraryUnload(kernel->library);
  free(kernel->name);
  free(kernel->source);
  free(kernel);
}

Status nvrtc_new(int major, int minor, const char *folder, Nvrtc **out, Error *error) {
  Status status = OK;
  Error why;
  char target[32];
  Nvrtc *nvrtc = mem_new(1, sizeof *nvrtc);
  *out = NULL;
  nvrtc->major = major;
  nvrtc->minor = minor;
  load_builtins();
  TRY(find_target(major, minor, target, error));
  if (folder && folder_create(folder, &why) == OK) {
    nvrtc->folder = mem_string(folder);
  } else if (folder) {
    log_warning("%s; compiled kernels are not cached", why.message);
  }
  *out = nvrtc;
  nvrtc = NULL;
done:
  nvrtc_free(nvrtc);
  return status;
}

void nvrtc_free(Nvrtc *nvrtc) {
  if (!nvrtc) return;
  while (nvrtc->kernels) {
    NvrtcKernel *next = nvrtc->kernels->next;
    kernel_free(nvrtc->kernels);
    nvrtc->kernels = next;
  }
  free(nvrtc->folder);
  free(nvrtc);
}

static Status load(NvrtcKernel *kernel, const Code *code, Error *error) {
  cudaError_t result =
      cudaLibraryLoadData(&kernel->library, code->bytes, NULL, NULL, 0, NULL, NULL, 0);
  if (result != cudaSuccess) {
    kernel->library = NULL;
    return cuda_error(result, "cudaLibraryLoadData", __FILE__, __LINE__, error);
  }
  result = cudaLibraryGetKernel(&kernel->kernel, kernel->library, kernel->name);
  if (result == cudaSuccess) return OK;
  return cuda_error(result, "cudaLibraryGetKernel", __FILE__, __LINE__, error);
}

Status nvrtc_kernel(Nvrtc *nvrtc, const char *name, const char *source, NvrtcKernel **out,
                    Error *error) {
  Status status = OK;
  Code code = {0};
  NvrtcKernel *kernel = NULL;
  *out = NULL;
  for (NvrtcKernel *k = nvrtc->kernels; k; k = k->next) {
    if (strcmp(k->name, name) == 0 && strcmp(k->source, source) == 0) {
      *out = k;
      return OK;
    }
  }
  TRY(find_code(nvrtc, name, source, &code, error));
  kernel = mem_new(1, sizeof *kernel);
  kernel->name = mem_string(name);
  kernel->source = mem_string(source);
  TRY(load(kernel, &code, error));
  kernel->next = nvrtc->kernels;
  nvrtc->kernels = *out = kernel;
  kernel = NULL;
done:
  if (kernel) {
    kernel_free(kernel);
    error_context(error, "kernel %s", name);
  }
  free(code.bytes);
  return status;
}

Status nvrtc_launch(const NvrtcKernel *kernel, dim3 blocks, unsigned threads, size_t shared_bytes,
                    const void *parameters, cudaStream_t stream, Error *error) {
  void *arguments[] = {(void *)(uintptr_t)parameters};
  const cudaError_t code = cudaLaunchKernel((const void *)kernel->kernel, blocks,
                                            (dim3){threads, 1, 1}, arguments, shared_bytes, stream);
  return code == cudaSuccess ? OK : cuda_error(code, kernel->name, __FILE__, __LINE__, error);
}

Status nvrtc_compile(const char *name, const char *source, int major, int minor, size_t *code_bytes,
                     Error *error) {
  Status status = OK;
  Code code = {0};
  char target[32];
  *code_bytes = 0;
  TRY(find_target(major, minor, target, error));
  TRY(compile(name, source, target, &code, error));
  *code_bytes = code.size;
done:
  free(code.bytes);
  return status;
}
