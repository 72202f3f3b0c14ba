/* Implements engine/cuda/nvrtc/nvrtc.h with the host's compiler: the generated source is compiled
 * to a shared library, whose kernel the emulator runs like any other. */
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "tests/emulator/device.h"

extern "C" {
#include "base/files.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "engine/cuda/runtime/cuda.h"
}

namespace {

const char INCLUDES[] = EMULATOR_ROOT "/tests/emulator/include";

std::string read(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool write(const std::string &path, const std::string &text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  return !file.fail();
}

std::string quoted(const std::string &text) {
  std::string result = "'";
  for (char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string compiler() {
  return std::string("g++ -std=c++17 -g -O1 -fPIC " EMULATOR_FLAGS " -I") + quoted(EMULATOR_ROOT) +
         " -isystem " + quoted(INCLUDES) + " -include cuda_runtime.h -c -x c++";
}

/* Hash (FNV-1a, 64 bits) of everything that the compiled code depends on. */
std::string key_of(const std::string &source) {
  static const std::string headers = read(std::string(INCLUDES) + "/cuda_runtime.h") +
                                     read(std::string(INCLUDES) + "/emulator_kernel.h");
  uint64_t hash = 0xcbf29ce484222325u;
  for (const std::string &part : {compiler(), headers, source}) {
    for (char c : part) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string with_entry(const std::string &name, const std::string &source) {
  return source +
         "\ntemplate <typename P> static EmulatorLaunch emulator_describe(void (*kernel)(P)) {"
         "  return {\"" +
         name +
         "\", emulator_entry<P>, reinterpret_cast<void (*)()>(kernel), sizeof(P), {}, 0, 0}; }\n"
         "EmulatorDevice *emulator_device;\n"
         "extern \"C\" EmulatorLaunch emulator_nvrtc_launch() { return emulator_describe(" +
         name + "); }\n";
}

/* Runs a command; returns its exit status, and stdout and stderr in `output`. */
int run(const std::string &command, std::string &output) {
  FILE *pipe = popen((command + " 2>&1").c_str(), "r");
  char chunk[512];
  if (!pipe) return -1;
  while (fgets(chunk, sizeof chunk, pipe)) output += chunk;
  const int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Compiles the library `path` atomically. It is linked without the sanitizer libraries, which the
 * process has loaded. */
Status compile(const std::string &name, const std::string &source, const std::string &path,
               Error *error) {
  const std::string base = path + "." + std::to_string(getpid());
  std::string output;
  Status status = OK;
  if (!write(base + ".cc", with_entry(name, source)))
    return error_set(error, ERROR_IO, "%s.cc: cannot be written", base.c_str());
  const int code = run(compiler() + " -o " + quoted(base + ".o") + " " + quoted(base + ".cc") +
                           " && g++ -shared -o " + quoted(base + ".so") + " " + quoted(base + ".o"),
                       output);
  if (code != 0 || rename((base + ".so").c_str(), path.c_str()) != 0)
    status = error_set(error, ERROR_INTERNAL, "kernel %s does not compile:\n%s", name.c_str(),
                       output.c_str());
  for (const char *ending : {".cc", ".o", ".so"}) unlink((base + ending).c_str());
  return status;
}

} // namespace

struct NvrtcKernel {
  EmulatorLaunch launch;
  void *library;
};

struct Nvrtc {
  std::string folder;
  bool is_temporary;
  std::map<std::string, NvrtcKernel *> kernels;
};

static Status make_temporary(std::string &folder, Error *error) {
  const char *source_line = getenv("TMPDIR");
  folder = std::string(source_line ? source_line : "/tmp") + "/emulated-kernels-XXXXXX";
  if (mkdtemp(&folder[0])) return OK;
  return error_errno(error, errno, "%s", folder.c_str());
}

Status nvrtc_new(int, int, const char *folder, Nvrtc **out, Error *error) {
  Status status = OK;
  Nvrtc *nvrtc = new Nvrtc{folder ? folder : "", !folder, {}};
  *out = nullptr;
  TRY(folder ? folder_create(folder, error) : make_temporary(nvrtc->folder, error));
  *out = nvrtc;
  nvrtc = nullptr;
done:
  delete nvrtc;
  return status;
}

void nvrtc_free(Nvrtc *nvrtc) {
  if (!nvrtc) return;
  cudaDeviceSynchronize();
  for (const auto &item : nvrtc->kernels) {
    dlclose(item.second->library);
    delete item.second;
  }
  if (nvrtc->is_temporary) folder_remove(nvrtc->folder.c_str(), nullptr);
  delete nvrtc;
}

static bool load(const std::string &path, NvrtcKernel &kernel) {
  kernel.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!kernel.library) return false;
  void *const device = dlsym(kernel.library, "emulator_device");
  void *const launch = dlsym(kernel.library, "emulator_nvrtc_launch");
  if (!device || !launch) {
    dlclose(kernel.library);
    return false;
  }
  *static_cast<EmulatorDevice **>(device) = emulator_device;
  kernel.launch = reinterpret_cast<EmulatorLaunch (*)()>(launch)();
  return true;
}

Status nvrtc_kernel(Nvrtc *nvrtc, const char *name, const char *source, NvrtcKernel **out,
                    Error *error) {
  const std::string key = key_of(std::string(name) + "\n" + source);
  const std::string path = nvrtc->folder + "/emulated-" + key + ".so";
  const auto found = nvrtc->kernels.find(key);
  NvrtcKernel made = {};
  *out = found != nvrtc->kernels.end() ? found->second : nullptr;
  if (*out) return OK;
  if (access(path.c_str(), R_OK) != 0 || !load(path, made)) {
    const Status status = compile(name, source, path, error);
    if (status != OK) return status;
    if (!load(path, made))
      return error_set(error, ERROR_INTERNAL, "%s: %s", path.c_str(), dlerror());
  }
  *out = nvrtc->kernels[key] = new NvrtcKernel(made);
  return OK;
}

Status nvrtc_launch(const NvrtcKernel *kernel, dim3 blocks, unsigned threads, size_t shared_bytes,
                    const void *parameters, cudaStream_t stream, Error *error) {
  EmulatorLaunch launch = kernel->launch;
  launch.blocks = blocks;
  launch.threads = threads;
  launch.shared_bytes = shared_bytes;
  const cudaError_t code = emulator_enqueue_launch(&launch, parameters, stream);
  return code == cudaSuccess ? OK : cuda_error(code, launch.name, __FILE__, __LINE__, error);
}

Status nvrtc_compile(const char *name, const char *source, int major, int minor, size_t *code_bytes,
                     Error *error) {
  Status status = OK;
  Nvrtc *nvrtc = nullptr;
  struct stat info = {};
  std::string path;
  TRY(nvrtc_new(major, minor, nullptr, &nvrtc, error));
  path = nvrtc->folder + "/compiled.so";
  TRY(compile(name, source, path, error));
  stat(path.c_str(), &info);
  *code_bytes = static_cast<size_t>(info.st_size);
done:
  nvrtc_free(nvrtc);
  return status;
}
