# Celforge: build, dependencies, demo, tests, benchmarks, install.
#
#   make              builds build/celforge and says which libraries it found
#   make demo         installs packages, renders a dataset, trains on it and translates a video
#   make test         installs packages, builds and runs all tests
#   make bench        trains beside PyTorch and prints the tables of the README
#   make test-gpu     tests that need a GPU; make bundle: a folder that runs them on another node
#   make faults       200 faults injected into training runs, and failing system calls in all commands
#   make fuzz         fuzzes every parser of files from outside, ten minutes each
#   make help         the rest
#
# Settings: CC, BUILD (folder), ARCH (-march), WITH_FFMPEG=0, SANITIZE=address,undefined | thread,
# PREFIX, DESTDIR, CUDA_HOME, CUDA_ARCHS, WITH_CUDA=1 | 0 | emulated (the CUDA backend without a
# toolkit, its kernels run on the CPU by tests/emulator: slow, for tests).

BUILD       ?= build
PREFIX      ?= /usr/local
ARCH        ?= native
SANITIZE    ?=
PKG_CONFIG  ?= pkg-config
CUDA_HOME   ?= /usr/local/cuda
CUDA_ARCHS  ?= 80 90 100
NVCC        ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) nvcc)
ifeq ($(origin CC),default)
CC := gcc
endif

# --- Packages of Debian 12, and their purpose ---------------------------------------------------
# build-essential pkg-config     compiler, linker, make; finds the libraries below
# libopenmpi-dev openmpi-bin     MPI: starts the ranks, small collectives, and gradients on CPUs
# libdnnl-dev                    oneDNN: convolutions on the CPU
# libhdf5-dev                    HDF5: the shards
# libyaml-dev                    YAML: configs
# libjansson-dev                 JSON: manifests, metrics, safetensors headers
# zlib1g-dev                     deflate: compressed shards
# libpng-dev                     PNG: sample sheets, frame folders
# libav*-dev libswscale-dev      FFmpeg: reading, filtering and writing video (optional)
# CUDA toolkit, cuDNN, NCCL      GPUs (optional; not Debian's: found below CUDA_HOME)
# libcmocka-dev                  the unit tests
# python3-torch python3-h5py     the tests' oracles: PyTorch for ops and whole steps, h5py and
# hdf5-tools ffmpeg              h5dump for shards, ffprobe and the psnr filter for videos
# python3-yaml python3-numpy     their configs and arrays
# slurmctld slurmd slurm-client  the one-machine cluster of tests/slurm
# iproute2                       the two hosts of tests/distributed/test_network.py
# valgrind clang clang-tidy clang-format   compilers and checkers of the tests
# patchelf                       library paths of the bundle's binaries
#
# Tests install from PyPI into the build folder (and are skipped where pip cannot): safetensors; onnx and onnxruntime
# (which must match; Debian 12 has only the former); tensorboard; opencv; clean-fid, pytorch-fid and lpips with torchvision.
DEPS_BUILD := build-essential pkg-config libopenmpi-dev openmpi-bin libdnnl-dev libhdf5-dev \
  libyaml-dev libjansson-dev zlib1g-dev libpng-dev \
  libavformat-dev libavcodec-dev libavfilter-dev libavutil-dev libswscale-dev
DEPS_TEST  := libcmocka-dev python3-torch python3-numpy python3-yaml python3-h5py hdf5-tools ffmpeg \
  slurmctld slurmd slurm-client iproute2 valgrind clang clang-tidy clang-format patchelf

# --- Libraries ----------------------------------------------------------------------------------
has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo 1 || echo 0)

WITH_FFMPEG ?= $(call has,libavformat libavcodec libavfilter libavutil libswscale)
FFMPEG_PKGS := libavformat libavcodec libavfilter libavutil libswscale

# Sanitizer builds exclude CUDA, whose libraries do not support them.
CUDA_THERE  := $(and $(wildcard $(CUDA_HOME)/include/cuda_runtime.h),$(wildcard $(CUDA_HOME)/include/cudnn.h),$(wildcard $(CUDA_HOME)/include/nccl.h))
WITH_CUDA   ?= $(if $(and $(CUDA_THERE),$(if $(SANITIZE),,1)),1,0)
CUDA_LIB    := $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudart_static.a $(CUDA_HOME)/lib/libcudart_static.a))
cuda_CFLAGS_1        := -isystem $(CUDA_HOME)/include
cuda_CFLAGS_emulated := -isystem tests/emulator/include
cuda_LIBS_1          := -L$(patsubst %/,%,$(dir $(CUDA_LIB))) -Wl,-rpath,$(patsubst %/,%,$(dir $(CUDA_LIB))) \
  -lcudnn -lnvrtc -lcudart_static -lstdc++ -lrt -ldl
cuda_LIBS_emulated   := -lstdc++ -ldl
nccl_LIBS_1          := -lnccl
cuda_CFLAGS := $(cuda_CFLAGS_$(WITH_CUDA))
cuda_LIBS   := $(cuda_LIBS_$(WITH_CUDA))

# Packages and flags of the libraries that need some, by folder.
PKGS_base  := jansson yaml-0.1
PKGS_comm  := ompi-c
PKGS_data  := hdf5 zlib libpng $(if $(filter 1,$(WITH_FFMPEG)),$(FFMPEG_PKGS))
SYS_base   := -lm
SYS_engine := -ldnnl $(cuda_LIBS)
SYS_comm   := $(if $(filter 1,$(WITH_CUDA)),$(nccl_LIBS_1) $(cuda_LIBS_1))

# --- Rooms: the folders that become a static library each, and what each may use ------------------
# A folder's sources are all those below it. Its library, its unit tests and the program link what is
# named here and nothing else, so a call against the arrows does not link.
uses_base            :=
uses_engine          := base
uses_comm            := base
uses_data            := base
uses_checkpoints     := base
uses_trainer/config  := base data
uses_trainer/gan     := trainer/config engine comm data checkpoints
uses_trainer/infer   := trainer/gan
uses_trainer/run     := trainer/infer
uses_trainer/export  := trainer/infer
uses_trainer/eval    := trainer/infer
uses_trainer/scaling := base
uses_trainer/bench   := trainer/run trainer/scaling
uses_trainer/cli     := trainer/run trainer/infer trainer/export trainer/eval trainer/bench trainer/scaling

# Users before what they use: the linker's order.
ROOMS := trainer/cli trainer/bench trainer/scaling trainer/eval trainer/export trainer/run trainer/infer \
  trainer/gan trainer/config checkpoints data comm engine base
TOP   := base engine comm data checkpoints trainer

# Folders excluded from a build. The emulator has stand-ins for cuDNN and NVRTC.
EXCLUDED_0        := engine/cuda comm/nccl
EXCLUDED_1        := engine/cuda_stub comm/nccl_stub
EXCLUDED_emulated := $(EXCLUDED_1) engine/cuda/cudnn engine/cuda/autotune engine/cuda/nvrtc
EXTRA_engine_emulated := $(wildcard tests/emulator/*.c tests/emulator/*.cc)
EXTRA_comm_emulated   := $(wildcard tests/emulator/nccl/*.c)

# --- Flags --------------------------------------------------------------------------------------
IS_CLANG := $(findstring clang,$(shell $(CC) --version 2>/dev/null))
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
  -Wundef -Wpointer-arith -Wwrite-strings -Wno-psabi -Werror
# oneDNN is linked with libgomp, which must not be mixed with clang's own OpenMP runtime: with clang, parallel loops are
# compiled as serial ones, for lint and sanitizer builds.
OPENMP   := $(if $(IS_CLANG),-Wno-source-uses-openmp -Wno-unknown-pragmas,-fopenmp)
OPT      := $(if $(SANITIZE),-O1 -fno-omit-frame-pointer,-O3)
SAN      := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
DEFINES      := -D_GNU_SOURCE -DWITH_FFMPEG=$(WITH_FFMPEG)
CPPFLAGS_ALL := -I. $(DEFINES) -MMD -MP $(CPPFLAGS)
CFLAGS_ALL   := -std=c17 -g $(OPT) -march=$(ARCH) -fno-math-errno $(OPENMP) $(WARNINGS) $(SAN) $(CFLAGS)
NVCCFLAGS    := -std=c++17 -O3 -lineinfo -I. -Werror all-warnings -Xcompiler -Wall,-Wextra,-Wno-unused-function,-fPIC \
  $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
EMULATOR_CXXFLAGS := -std=c++17 -g -O2 -I. $(cuda_CFLAGS_emulated) -include cuda_runtime.h -Wall -Wextra -Wno-unknown-pragmas -Werror $(SAN) \
  -MD -MP -DEMULATOR_ROOT='"$(CURDIR)"' -DEMULATOR_FLAGS='"$(SAN)"'
LDFLAGS_ALL  := -g $(SAN) $(if $(IS_CLANG),,-fopenmp) -pthread $(LDFLAGS)
pkg_cflags = $(if $(1),$(patsubst -I%,-isystem %,$(shell $(PKG_CONFIG) --cflags $(1) 2>/dev/null)))
pkg_libs   = $(if $(1),$(shell $(PKG_CONFIG) --libs $(1) 2>/dev/null))

# --- Libraries of the rooms -------------------------------------------------------------------------
needs    = $(1) $(foreach used,$(uses_$(1)),$(call needs,$(used)))
closure  = $(filter $(call needs,$(1)),$(ROOMS))
library  = $(BUILD)/lib$(subst /,_,$(1)).a
LIBS     = $(foreach room,$(call closure,$(1)),$(call library,$(room)))
SYS      = $(foreach room,$(call closure,$(1)),$(SYS_$(room)) $(call pkg_libs,$(PKGS_$(room))))
sources  = $(sort $(shell find $(1) $(foreach folder,$(EXCLUDED_$(WITH_CUDA)),-path $(folder) -prune -o) \
  \( -name '*.c' -o -name '*.cu' \) -print)) $(EXTRA_$(1)_$(WITH_CUDA))
objects  = $(patsubst %,$(BUILD)/obj/%.o,$(basename $(filter %.c,$(1))) $(filter %.cu %.cc,$(1)))

define ROOM
CFLAGS_$(1) := $$(call pkg_cflags,$$(sort $$(PKGS_$(1)) $$(PKGS_base))) $$(if $$(filter engine comm,$(1)),$$(cuda_CFLAGS))
OBJ_$(1)    := $$(call objects,$$(filter-out trainer/cli/main.c,$$(call sources,$(1))))
$$(OBJ_$(1)): ROOM_CFLAGS = $$(CFLAGS_$(1))
$$(call library,$(1)): $$(OBJ_$(1))
	@rm -f $$@
	@ar rcs $$@ $$^
.PHONY: $(1)
$(1): $$(call library,$(1))
endef
$(foreach room,$(ROOMS),$(eval $(call ROOM,$(room))))
ALL_LIBS := $(call LIBS,trainer/cli)
ALL_SYS  := $(call SYS,trainer/cli)

.DEFAULT_GOAL := all
.PHONY: all
all: found $(BUILD)/celforge

$(BUILD)/celforge: $(BUILD)/obj/trainer/cli/main.o $(ALL_LIBS)
	@echo "  link    $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ $(ALL_SYS)

$(BUILD)/obj/trainer/cli/main.o: ROOM_CFLAGS = $(CFLAGS_trainer/cli)
$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  compile $<"
	@$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(ROOM_CFLAGS) -c -o $@ $<

ifeq ($(WITH_CUDA),emulated)
$(BUILD)/obj/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  compile $<"
	@$(CXX) $(EMULATOR_CXXFLAGS) -x c++ -c -o $@ $<
$(BUILD)/obj/%.cc.o: %.cc $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  compile $<"
	@$(CXX) $(EMULATOR_CXXFLAGS) -c -o $@ $<
else
$(BUILD)/obj/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  nvcc    $<"
	@$(NVCC) $(NVCCFLAGS) -ccbin $(CC) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
endif

# Objects are rebuilt when the flags change.
FLAGS_NOW := $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(WITH_CUDA) $(if $(filter 1,$(WITH_CUDA)),$(NVCCFLAGS))
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@
.PHONY: FORCE
FORCE:

# --- Unit tests: tests/unit/ROOM/test_NAME.c links that room and what it may use; all
# tests/unit/ROOM/support_*.c are linked into each of them. --------------------------------------------
define UNIT
TESTS_$(1)   := $$(patsubst tests/unit/%.c,$$(BUILD)/tests/unit/%,$$(sort $$(wildcard tests/unit/$(1)/test_*.c)))
SUPPORT_$(1) := $$(patsubst %.c,$$(BUILD)/obj/%.o,$$(sort $$(wildcard tests/unit/$(1)/support_*.c)))
$$(BUILD)/obj/tests/unit/$(1)/%.o: ROOM_CFLAGS = $$(CFLAGS_$(1)) -Itests/unit/$(1) -Wno-missing-prototypes
$$(TESTS_$(1)): $$(BUILD)/tests/unit/%: $$(BUILD)/obj/tests/unit/%.o $$(SUPPORT_$(1)) $$(call LIBS,$(1))
	@mkdir -p $$(@D)
	@$$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ -lcmocka $$(call SYS,$(1))
.PHONY: unit-$(1)
unit-$(1): $$(TESTS_$(1))
endef
$(foreach room,$(ROOMS),$(eval $(call UNIT,$(room))))
UNIT_TESTS := $(foreach room,$(ROOMS),$(TESTS_$(room)))

# --- Programs that tests/oracle runs beside PyTorch: tests/oracle/NAME.c, linked with all rooms -------
ORACLES := $(patsubst tests/oracle/%.c,$(BUILD)/tests/oracle/%,$(sort $(wildcard tests/oracle/*.c)))
$(BUILD)/obj/tests/oracle/%.o: ROOM_CFLAGS = $(CFLAGS_trainer/cli)
$(BUILD)/tests/oracle/%: $(BUILD)/obj/tests/oracle/%.o $(ALL_LIBS)
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ $(ALL_SYS)

# --- Tests that need a GPU or the emulator: tests/gpu/test_NAME.c, linked with all rooms --------------
without_GPU_emulated := $(patsubst %,tests/gpu/%.c,test_convolution test_descriptors test_cache_lock support_plans) # need cuDNN itself
without_GPU_1        := tests/gpu/test_conv_variants.c tests/gpu/test_emulator.c tests/gpu/test_nccl.c # need the emulator
GPU_SUPPORT := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(without_GPU_$(WITH_CUDA)),$(sort \
  $(wildcard tests/gpu/support_*.c)))) $(SUPPORT_engine)
GPU_TESTS   := $(if $(filter-out 0,$(WITH_CUDA)),$(patsubst tests/gpu/%.c,$(BUILD)/tests/gpu/%,$(filter-out \
  $(without_GPU_$(WITH_CUDA)),$(sort $(wildcard tests/gpu/test_*.c)))))
$(BUILD)/obj/tests/gpu/%.o: ROOM_CFLAGS = $(CFLAGS_trainer/cli) $(cuda_CFLAGS) -Wno-missing-prototypes
$(BUILD)/tests/gpu/%: $(BUILD)/obj/tests/gpu/%.o $(GPU_SUPPORT) $(ALL_LIBS)
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(ALL_SYS)

# --- Fuzz targets: tests/fuzz/ROOM/fuzz_NAME.c becomes $(BUILD)/fuzz/NAME, libFuzzer (clang); it links that room, what it may
# use, and tests/fuzz/support. Two functions of base/files.h are wrapped, so that text parsers read their input from memory. ---
FUZZ_FLAGS   := CC=clang SANITIZE=fuzzer-no-link,address,undefined OPT='-O2 -fno-omit-frame-pointer' WITH_CUDA=0
FUZZ_SUPPORT := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard tests/fuzz/support/*.c)))
FUZZ_LINK    := -fsanitize=fuzzer -Wl,--wrap=file_read,--wrap=path_exists
define FUZZ
FUZZ_$(1) := $$(patsubst tests/fuzz/$(1)/fuzz_%.c,$$(BUILD)/fuzz/%,$$(sort $$(wildcard tests/fuzz/$(1)/fuzz_*.c)))
$$(BUILD)/obj/tests/fuzz/$(1)/fuzz_%.o: ROOM_CFLAGS = $$(CFLAGS_$(1))
$$(FUZZ_$(1)): $$(BUILD)/fuzz/%: $$(BUILD)/obj/tests/fuzz/$(1)/fuzz_%.o $$(FUZZ_SUPPORT) $$(call LIBS,$(1))
	@mkdir -p $$(@D)
	@$$(CC) $$(LDFLAGS_ALL) $$(FUZZ_LINK) -o $$@ -Wl,--start-group $$^ -Wl,--end-group $$(call SYS,$(1)) -lz
endef
$(foreach room,$(ROOMS),$(eval $(call FUZZ,$(room))))
$(FUZZ_SUPPORT): ROOM_CFLAGS = $(CFLAGS_data) -fno-sanitize=fuzzer-no-link -Wno-missing-prototypes
# The plan cache is compiled without CUDA, against the names that the emulator declares; the target replaces cuDNN.
PLAN_CACHE := $(patsubst %,$(BUILD)/obj/%.o,engine/cuda/autotune/plan_cache engine/cuda/convolution/conv_variant)
ifeq ($(WITH_CUDA),0)
$(PLAN_CACHE) $(BUILD)/obj/tests/fuzz/engine/fuzz_plan_cache.o: ROOM_CFLAGS = $(CFLAGS_engine) $(cuda_CFLAGS_emulated)
$(BUILD)/fuzz/plan_cache: $(PLAN_CACHE)
endif
.PHONY: fuzz-binaries fuzz-targets
fuzz-binaries: $(foreach room,$(ROOMS),$(FUZZ_$(room)))
fuzz-targets:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz $(FUZZ_FLAGS) fuzz-binaries

# --- Commands -------------------------------------------------------------------------------------
.PHONY: help found deps deps-build demo test test-gpu bench faults fuzz bundle install format lint clean unit gpu-tests

help:
	@sed -n '3,14p' Makefile | cut -c3-
	@echo "  make unit | unit-ROOM   builds the unit tests (of one room)"
	@echo "  make format | lint      clang-format in place; clang-format and clang-tidy checks"
	@echo "  make fuzz-targets       builds the fuzz targets into $(BUILD)/fuzz, for tests/fuzz/run"
	@echo "  make install            PREFIX=$(PREFIX)"

CUDA_FOUND_1 = toolkit $$($(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'), for sm_$(subst $(space),$(comma) sm_,$(CUDA_ARCHS))
CUDA_FOUND_0 = excluded (no GPU)
CUDA_FOUND_emulated = emulated on the CPU, for tests
comma := ,
empty :=
space := $(empty) $(empty)
FOUND = printf '  %-10s %s\n'
found:
	@$(FOUND) compiler "$$($(CC) --version | head -n1), -march=$(ARCH)"
	@$(FOUND) MPI "$$($(PKG_CONFIG) --modversion ompi-c 2>/dev/null || echo 'missing: make deps')"
	@$(FOUND) HDF5 "$$($(PKG_CONFIG) --modversion hdf5 2>/dev/null || echo 'missing: make deps')"
	@$(FOUND) oneDNN "$$(test -e /usr/include/dnnl.h && dpkg-query -Wf '$${Version}' libdnnl-dev 2>/dev/null || echo 'missing: make deps')"
	@$(FOUND) libyaml "$$($(PKG_CONFIG) --modversion yaml-0.1 2>/dev/null || echo 'missing: make deps')"
	@$(FOUND) FFmpeg "$(if $(filter 1,$(WITH_FFMPEG)),libavformat $$($(PKG_CONFIG) --modversion libavformat),excluded (no video; pack and translate work on PNG folders))"
	@$(FOUND) CUDA "$(CUDA_FOUND_$(WITH_CUDA))"

deps:
	@tests/deps $(DEPS_BUILD) $(DEPS_TEST)

# Without the packages of the tests.
deps-build:
	@tests/deps $(DEPS_BUILD)

unit: $(UNIT_TESTS) $(ORACLES) $(GPU_TESTS)

gpu-tests: $(GPU_TESTS)

test: deps
	@$(MAKE) --no-print-directory all unit
	@tests/run

demo: deps-build
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/demo

bench: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/bench/run
	@BUILD=$(BUILD) tests/bench/ranks

# Tests that need a GPU, and training steps beside PyTorch.
test-gpu: deps
	@$(MAKE) --no-print-directory all gpu-tests
	@BUILD=$(BUILD) tests/gpu/run

# The same as a folder to copy to a GPU node without a toolkit.
bundle: deps
	@BUILD=$(BUILD) tests/gpu/bundle

# Training runs with faults injected at random moments, restarted until they finish; then all commands with failing system calls;
# then one run of 20,000 steps (an hour or more).
faults: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/faults/campaign
	@BUILD=$(BUILD) tests/faults/syscalls/campaign
	@BUILD=$(BUILD) tests/faults/soak
	@BUILD=$(BUILD) tests/faults/configurations

# Every parser of files from outside, ten minutes each.
fuzz: deps
	@$(MAKE) --no-print-directory all fuzz-targets
	@BUILD=$(BUILD) tests/fuzz/run --seconds 600

install: all
	install -D -m 755 $(BUILD)/celforge $(DESTDIR)$(PREFIX)/bin/celforge
	install -d $(DESTDIR)$(PREFIX)/share/celforge/configs
	install -m 644 configs/*.yaml $(DESTDIR)$(PREFIX)/share/celforge/configs
	install -d $(DESTDIR)$(PREFIX)/share/celforge/configs/clusters
	install -m 644 configs/clusters/*.yaml $(DESTDIR)$(PREFIX)/share/celforge/configs/clusters
	install -d $(DESTDIR)$(PREFIX)/share/celforge/models
	for file in models/*.safetensors; do [ ! -e $$file ] || \
	  install -m 644 $$file $${file%.safetensors}.md $(DESTDIR)$(PREFIX)/share/celforge/models || exit 1; done

C_FILES = $(sort $(shell find $(TOP) tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cc'))
format:
	clang-format -i $(C_FILES)

lint:
	@clang-format --dry-run -Werror $(C_FILES)
	@DEFINES='$(DEFINES)' WITH_CUDA=$(WITH_CUDA) tests/lint $(foreach room,$(ROOMS),"$(room)=$(CFLAGS_$(room))")

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
