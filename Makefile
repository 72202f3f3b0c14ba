# Celforge: build, dependencies, demo, tests, benchmarks, install.
#
#   make              builds build/celforge and says which libraries it found
#   make demo         all set-up, then renders data, trains on it and translates a clip
#   make test         all set-up, then builds and runs every test
#   make bench        trains beside PyTorch and prints the table of the README
#   make test-gpu     what needs a GPU; make bundle: a folder that does the same on a bare GPU node
#   make faults       200 faults injected into runs at random moments, each run restarted until it is done
#   make help         the rest
#
# Settings: CC, BUILD (folder), ARCH (-march), WITH_FFMPEG=0, SANITIZE=address,undefined | thread,
# PREFIX, DESTDIR, CUDA_HOME, CUDA_ARCHS, WITH_CUDA=1 | 0 | emulated. The last one builds the CUDA
# backend without a toolkit, with its kernels run on the CPU (tests/emulator): slow, for tests.

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

# --- What Debian 12 must provide, and why -------------------------------------------------------
# build-essential pkg-config     compiler, linker, make; finds the libraries below
# libopenmpi-dev openmpi-bin     MPI: starts the ranks, carries what is small, and gradients on CPUs
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
# valgrind clang clang-tidy clang-format   more of the tests' tools
# patchelf                       the binaries of the bundle find its libraries
#
# And from PyPI, into the build folder, by the tests that read with them (skipped where pip cannot fetch):
# safetensors; onnx and onnxruntime; tensorboard; opencv. Debian 12 has onnx, which must fit its runtime, and opencv,
# with all of its own dependencies.
DEPS_BUILD := build-essential pkg-config libopenmpi-dev openmpi-bin libdnnl-dev libhdf5-dev \
  libyaml-dev libjansson-dev zlib1g-dev libpng-dev \
  libavformat-dev libavcodec-dev libavfilter-dev libavutil-dev libswscale-dev
DEPS_TEST  := libcmocka-dev python3-torch python3-numpy python3-yaml python3-h5py hdf5-tools ffmpeg \
  slurmctld slurmd slurm-client iproute2 valgrind clang clang-tidy clang-format patchelf

# --- Libraries ----------------------------------------------------------------------------------
has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo 1 || echo 0)

WITH_FFMPEG ?= $(call has,libavformat libavcodec libavfilter libavutil libswscale)
FFMPEG_PKGS := libavformat libavcodec libavfilter libavutil libswscale

# A sanitizer build leaves CUDA's libraries out: they were not built for one.
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

base_PKGS        := jansson yaml-0.1
engine_LIBS      := -ldnnl $(cuda_LIBS)
comm_PKGS        := ompi-c
comm_LIBS        := $(if $(filter 1,$(WITH_CUDA)),$(nccl_LIBS_1) $(cuda_LIBS_1))
data_PKGS        := hdf5 zlib libpng $(if $(filter 1,$(WITH_FFMPEG)),$(FFMPEG_PKGS))
checkpoints_PKGS :=
trainer_PKGS     := libpng

ROOMS := base engine comm data checkpoints trainer

# --- Flags --------------------------------------------------------------------------------------
IS_CLANG := $(findstring clang,$(shell $(CC) --version 2>/dev/null))
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
  -Wundef -Wpointer-arith -Wwrite-strings -Wno-psabi -Werror
# libgomp is what oneDNN is linked with; clang's own runtime must not join it. Clang then compiles
# the parallel loops as plain ones, which is right for a lint and sanitizer build.
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

# --- Rooms: one static library each; a room may use base and, for the trainer, every other --------

# With CUDA: engine/cuda and comm/nccl*.c, without: engine/without_cuda.c and comm/without_nccl.c. The
# emulator stands in for cuDNN, NVRTC and NCCL.
without_CUDA_0        := engine/cuda/% comm/nccl%
without_CUDA_1        := engine/without_cuda.c comm/without_nccl.c
without_CUDA_emulated := $(without_CUDA_1) engine/cuda/convolution.c engine/cuda/convolution_check.c engine/cuda/cudnn% engine/cuda/jit.c
engine_EXTRA_1        := $(wildcard engine/cuda/*.c engine/cuda/*.cu)
engine_EXTRA_emulated := $(engine_EXTRA_1) $(wildcard tests/emulator/*.c tests/emulator/*.cc)
comm_EXTRA_emulated   := $(wildcard tests/emulator/nccl/*.c)

define ROOM
$(1)_SRC    := $$(filter-out trainer/main.c $$(without_CUDA_$$(WITH_CUDA)),$$(sort \
  $$(wildcard $(1)/*.c $(1)/ops/*.c $(1)/cpu/*.c) $$($(1)_EXTRA_$$(WITH_CUDA))))
$(1)_OBJ    := $$(patsubst %,$$(BUILD)/obj/%.o,$$(basename $$(filter %.c,$$($(1)_SRC)))) \
  $$(patsubst %,$$(BUILD)/obj/%.o,$$(filter %.cu %.cc,$$($(1)_SRC)))
$(1)_CFLAGS := $$(call pkg_cflags,$$($(1)_PKGS) $$(if $$(filter-out base,$(1)),$$(base_PKGS))) \
  $$(if $$(filter engine comm,$(1)),$$(cuda_CFLAGS))
$$($(1)_OBJ): ROOM_CFLAGS = $$($(1)_CFLAGS)
$$(BUILD)/lib$(1).a: $$($(1)_OBJ)
	@rm -f $$@
	@ar rcs $$@ $$^
.PHONY: $(1)
$(1): $$(BUILD)/lib$(1).a
endef
$(foreach r,$(ROOMS),$(eval $(call ROOM,$(r))))

LIBS_base        := $(BUILD)/libbase.a
LIBS_engine      := $(BUILD)/libengine.a $(LIBS_base)
LIBS_comm        := $(BUILD)/libcomm.a $(LIBS_base)
LIBS_data        := $(BUILD)/libdata.a $(LIBS_base)
LIBS_checkpoints := $(BUILD)/libcheckpoints.a $(LIBS_base)
LIBS_trainer     := $(BUILD)/libtrainer.a $(foreach r,engine comm data checkpoints,$(BUILD)/lib$(r).a) $(LIBS_base)
SYS_base         := $(call pkg_libs,$(base_PKGS)) -lm
SYS_engine       := $(engine_LIBS) $(SYS_base)
SYS_comm         := $(call pkg_libs,$(comm_PKGS)) $(comm_LIBS) $(SYS_base)
SYS_data         := $(call pkg_libs,$(data_PKGS)) $(SYS_base)
SYS_checkpoints  := $(SYS_base)
SYS_trainer      := $(comm_LIBS) $(engine_LIBS) $(call pkg_libs,$(comm_PKGS) $(data_PKGS)) $(SYS_base)

.DEFAULT_GOAL := all
.PHONY: all
all: found $(BUILD)/celforge

$(BUILD)/celforge: $(BUILD)/obj/trainer/main.o $(LIBS_trainer)
	@echo "  link    $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ $(SYS_trainer)

$(BUILD)/obj/trainer/main.o: ROOM_CFLAGS = $(trainer_CFLAGS)
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

# Objects are made again when the flags change.
FLAGS_NOW := $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(WITH_CUDA) $(if $(filter 1,$(WITH_CUDA)),$(NVCCFLAGS))
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@
.PHONY: FORCE
FORCE:

# --- Unit tests: tests/unit/ROOM/test_NAME.c links that room and base alone, so an arrow in the
# wrong direction does not link. tests/unit/ROOM/support_*.c is linked into all tests of a room. -----
define UNIT
$(1)_TESTS := $$(patsubst tests/unit/%.c,$$(BUILD)/tests/unit/%,$$(sort $$(wildcard tests/unit/$(1)/test_*.c)))
$(1)_SUPPORT := $$(patsubst %.c,$$(BUILD)/obj/%.o,$$(sort $$(wildcard tests/unit/$(1)/support_*.c)))
$$(BUILD)/obj/tests/unit/$(1)/%.o: ROOM_CFLAGS = $$($(1)_CFLAGS) -Wno-missing-prototypes
$$(BUILD)/tests/unit/$(1)/%: $$(BUILD)/obj/tests/unit/$(1)/%.o $$($(1)_SUPPORT) $$(LIBS_$(1))
	@mkdir -p $$(@D)
	@$$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ -lcmocka $$(SYS_$(1))
.PHONY: unit-$(1)
unit-$(1): $$($(1)_TESTS)
endef
$(foreach r,$(ROOMS),$(eval $(call UNIT,$(r))))
UNIT_TESTS := $(foreach r,$(ROOMS),$($(r)_TESTS))

# --- What tests/oracle runs beside PyTorch: tests/oracle/NAME.c, linked with every room ---------------
ORACLES := $(patsubst tests/oracle/%.c,$(BUILD)/tests/oracle/%,$(sort $(wildcard tests/oracle/*.c)))
$(BUILD)/obj/tests/oracle/%.o: ROOM_CFLAGS = $(trainer_CFLAGS)
$(BUILD)/tests/oracle/%: $(BUILD)/obj/tests/oracle/%.o $(LIBS_trainer)
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ $(SYS_trainer)

# --- What needs a GPU (or the emulator): tests/gpu/test_NAME.c, linked with every room ----------------
without_GPU_emulated := $(patsubst %,tests/gpu/%.c,test_convolution test_descriptors test_claims support_plans) # cuDNN itself
without_GPU_1        := tests/gpu/test_forms.c tests/gpu/test_emulator.c # a stand-in for it; the emulator itself
GPU_SUPPORT := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(without_GPU_$(WITH_CUDA)),$(sort \
  $(wildcard tests/gpu/support_*.c)))) $(engine_SUPPORT)
GPU_TESTS   := $(if $(filter-out 0,$(WITH_CUDA)),$(patsubst tests/gpu/%.c,$(BUILD)/tests/gpu/%,$(filter-out \
  $(without_GPU_$(WITH_CUDA)),$(sort $(wildcard tests/gpu/test_*.c)))))
$(BUILD)/obj/tests/gpu/%.o: ROOM_CFLAGS = $(trainer_CFLAGS) $(cuda_CFLAGS) -Wno-missing-prototypes
$(BUILD)/tests/gpu/%: $(BUILD)/obj/tests/gpu/%.o $(GPU_SUPPORT) $(LIBS_trainer)
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(SYS_trainer)

# --- Fuzz targets: tests/fuzz/fuzz_ROOM_NAME.c, libFuzzer (clang) -----------------------------------
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ     := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%)
.PHONY: fuzz-targets
fuzz-targets: $(FUZZ)
$(BUILD)/fuzz/%: tests/fuzz/%.c FORCE
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz-obj CC=clang SANITIZE=fuzzer-no-link,address,undefined \
	  $(patsubst %,$(BUILD)/fuzz-obj/lib%.a,$(word 2,$(subst _, ,$*)) base) >/dev/null
	@mkdir -p $(@D)
	@echo "  fuzz    $@"
	@clang -std=c17 -g -O1 -I. -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -o $@ $< \
	  $(base_CFLAGS) $($(word 2,$(subst _, ,$*))_CFLAGS) \
	  $(patsubst %,$(BUILD)/fuzz-obj/lib%.a,$(word 2,$(subst _, ,$*)) base) \
	  $(SYS_$(word 2,$(subst _, ,$*))) -pthread

# --- Commands -------------------------------------------------------------------------------------
.PHONY: help found deps demo test test-gpu bench faults bundle install format lint clean unit gpu-tests

help:
	@sed -n '3,12p' Makefile | cut -c3-
	@echo "  make unit | unit-ROOM   builds the unit tests (of one room)"
	@echo "  make format | lint      clang-format in place; clang-format and clang-tidy checks"
	@echo "  make fuzz-targets       builds the fuzz targets into $(BUILD)/fuzz"
	@echo "  make install            PREFIX=$(PREFIX)"

CUDA_FOUND_1 = toolkit $$($(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'), for sm_$(subst $(space),$(comma) sm_,$(CUDA_ARCHS))
CUDA_FOUND_0 = left out (no GPU)
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
	@$(FOUND) FFmpeg "$(if $(filter 1,$(WITH_FFMPEG)),libavformat $$($(PKG_CONFIG) --modversion libavformat),left out (no video; pack and translate work on PNG folders))"
	@$(FOUND) CUDA "$(CUDA_FOUND_$(WITH_CUDA))"

deps:
	@tests/deps $(DEPS_BUILD) $(DEPS_TEST)

unit: $(UNIT_TESTS) $(ORACLES) $(GPU_TESTS)

gpu-tests: $(GPU_TESTS)

test: deps
	@$(MAKE) --no-print-directory all unit
	@tests/run

demo: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/demo

bench: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/bench/run
	@BUILD=$(BUILD) tests/bench/ranks

# What needs a GPU, and training steps beside PyTorch there.
test-gpu: deps
	@$(MAKE) --no-print-directory all gpu-tests
	@BUILD=$(BUILD) tests/gpu/run

# The same to take along: a folder that runs on a bare GPU node.
bundle: deps
	@BUILD=$(BUILD) tests/gpu/bundle

# Runs disturbed at random moments, restarted until they are done.
faults: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/faults/campaign

install: all
	install -D -m 755 $(BUILD)/celforge $(DESTDIR)$(PREFIX)/bin/celforge
	install -d $(DESTDIR)$(PREFIX)/share/celforge/configs
	install -m 644 configs/*.yaml $(DESTDIR)$(PREFIX)/share/celforge/configs
	install -d $(DESTDIR)$(PREFIX)/share/celforge/configs/clusters
	install -m 644 configs/clusters/*.yaml $(DESTDIR)$(PREFIX)/share/celforge/configs/clusters

C_FILES = $(sort $(shell find $(ROOMS) tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cc'))
format:
	clang-format -i $(C_FILES)

lint:
	@clang-format --dry-run -Werror $(C_FILES)
	@DEFINES='$(DEFINES)' WITH_CUDA=$(WITH_CUDA) tests/lint $(foreach r,$(ROOMS),"$(r)=$($(r)_CFLAGS)")

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
