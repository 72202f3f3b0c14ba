#!/usr/bin/python3
"""Checks the machine code of all CUDA kernels without a GPU: registers, spills, occupancy, 16-byte accesses, FP64,
64-bit division, barriers. For each architecture of the build it reads the kernels of the object files and those that
NVRTC compiles for every config. A new kernel needs an entry in REQUIREMENTS.

Prints a table for TUNED as comments: registers, shared memory, blocks and warps per multiprocessor, instructions.
"""
import collections
import glob
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
BUILD = os.environ.get("BUILD", "build")
TUNED = 90  # the architecture on which kernels were tuned
failed = number = 0

# --- Requirements: the first entry whose pattern matches the kernel's name applies ------------------------------------
# warps: at least so many must be resident on a multiprocessor (TUNED). vectors: "l", "s": has 16-byte loads, stores.
# fp64, division (of 64-bit integers: a call of 100 instructions), barriers, stack: allowed. in_flight (TUNED): at least
# so many loads (of 16 bytes, if vectors has "l") without a jump between them, so that they are in flight at once; a load
# after a jump waits for those before it.
FIELDS = "pattern warps vectors fp64 division barriers stack in_flight"
Requirement = collections.namedtuple("Requirement", FIELDS, defaults=("", False, False, False, False, 0))
REQUIREMENTS = [
    # Self-test: small tensors, when a backend is opened.
    Requirement(r"reference_", 0, fp64=True, division=True, barriers=True, stack=True),
    # One thread.
    Requirement(r"adam_decide", 0, fp64=True),
    Requirement(r"adam_kernel|store_kernel", 40, "s"),
    # Tensors of more than 2^32 accesses divide in 64 bits.
    Requirement(r"concat_slice_kernel<16, unsigned int>", 64, "ls"),
    Requirement(r"concat_slice_kernel<\d+, unsigned int>", 64),
    Requirement(r"concat_slice_kernel", 40, division=True),
    Requirement(r"resample_copy_kernel<16, \d+, unsigned int>", 64, "ls"),
    Requirement(r"resample_sum_kernel<(unsigned short, 8|float, 4), [48], unsigned int>", 40, "ls"),
    Requirement(r"resample_sum_kernel<.*, 6, 1, unsigned int>", 40),
    Requirement(r"resample_\w+<.*, unsigned int>", 48),
    Requirement(r"resample_\w+", 40, division=True),
    # 2 x 2 windows: all loads of a window, and in the backward pass its gradient, are in flight at once.
    Requirement(r"max_pool_kernel<(unsigned short, 8|float, 4), 2>", 48, "ls", in_flight=4),
    Requirement(r"max_pool_backward_kernel<(unsigned short, 8|float, 4), 2>", 40, "ls", in_flight=5),
    Requirement(r"max_pool_kernel<\w+( \w+)?, 1, 2>", 48, in_flight=4),
    Requirement(r"max_pool_backward_kernel<\w+( \w+)?, 1, 2>", 48, in_flight=5),
    Requirement(r"max_pool_\w+<(unsigned short, 8|float, 4), 0>", 32, "ls"),
    Requirement(r"max_pool_\w+<", 48),
    Requirement(r"pad_crop_kernel<.*, [48], unsigned int>", 64, "ls"),
    Requirement(r"pad_crop_kernel<.*, unsigned int>", 64),
    Requirement(r"pad_crop_kernel", 40, division=True),
    Requirement(r"im2col_packs_kernel<.*, 1, unsigned int>", 48),
    Requirement(r"im2col_packs_kernel<.*, unsigned int>", 48, "ls"),
    Requirement(r"im2col_packs_kernel", 32, division=True),
    Requirement(r"im2col_rows_kernel", 64, "s", barriers=True, in_flight=4),
    Requirement(r"col2im_kernel<.*, 1, unsigned int>", 64, in_flight=2),
    Requirement(r"col2im_kernel<.*, [346], unsigned int>", 64, in_flight=6),
    Requirement(r"col2im_kernel", 32, division=True),
    Requirement(r"permute_kernel", 32, division=True),
    Requirement(r"column_parts_kernel<(unsigned short, 8|float, 4)>", 40, "l", division=True, barriers=True),
    Requirement(r"column_\w+", 40, division=True, barriers=True),
    # Tiles are loaded element by element, so that either operand may be transposed.
    Requirement(r"matmul_kernel", 24, barriers=True, in_flight=4),
    Requirement(r"matmul_sum_kernel", 64, in_flight=8),
    # The flow, then the four neighbours at once.
    Requirement(r"warp_kernel<(unsigned short, 8, 8|float, 4, 4), unsigned int>", 64, "ls", in_flight=4),
    Requirement(r"warp_kernel<.*, 3, 1, unsigned int>", 64, in_flight=12),
    Requirement(r"warp_kernel<.*, unsigned int>", 64, in_flight=4),
    Requirement(r"warp_kernel", 64, division=True),
    Requirement(r"translate_kernel<16, unsigned int>", 64, "ls"),
    Requirement(r"translate_kernel<\d+, unsigned int>", 64),
    Requirement(r"translate_kernel", 64, division=True),
    Requirement(r"rms_forward_kernel<(unsigned short, 8|float, 4), 1,", 32, "ls", in_flight=4),  # two pixels and their residuals
    Requirement(r"rms_forward_kernel<(unsigned short, 8|float, 4), 2,", 24, "ls", in_flight=4),
    Requirement(r"rms_forward_kernel<(unsigned short, 8|float, 4), 4,", 16, "ls", in_flight=8),
    Requirement(r"rms_forward_kernel", 32),
    Requirement(r"rms_backward_kernel<unsigned short, 8, 4,", 8, "ls", barriers=True, in_flight=8),
    Requirement(r"rms_backward_kernel<(unsigned short, 8|float, 4), 4,", 16, "ls", barriers=True, in_flight=8),
    Requirement(r"rms_backward_kernel<(unsigned short, 8|float, 4), 2,", 16, "ls", barriers=True, in_flight=4),
    Requirement(r"rms_backward_kernel<(unsigned short, 8|float, 4), 1,", 24, "ls", barriers=True, in_flight=2),
    Requirement(r"rms_backward_kernel", 32, barriers=True),
    Requirement(r"rms_wide_(forward|backward)_kernel<(unsigned short, 8|float, 4)>", 40, "ls", barriers=True),
    Requirement(r"rms_wide_(forward|backward)_kernel", 40, barriers=True),
    Requirement(r"rms_wide_partials_kernel", 40, division=True),
    Requirement(r"instance_norm_\w+_kernel<(unsigned short, 8|float, 4)>", 24, "ls"),
    # The compiler divides once per thread, for the trip count of a loop that it unrolls.
    Requirement(r"instance_norm_\w+_kernel", 40, division=True),
    Requirement(r"^instance_(moments|gradient_sums)_kernel<(unsigned short, 8|float, 4)>", 24, "l", division=True, barriers=True),
    Requirement(r"^instance_(moments|gradient_sums)_kernel", 40, division=True, barriers=True),
    Requirement(r"group_\w+_kernel", 40, barriers=True),
    Requirement(r"norm_parameter_gradients_kernel", 64, barriers=True),
    Requirement(r"reduce_finish_kernel", 64, fp64=True, division=True, barriers=True),
    Requirement(r"segment_chunks_kernel", 40, "l", fp64=True, barriers=True),
    Requirement(r"segment_totals_kernel", 40, fp64=True, barriers=True),
    # Generated.
    Requirement(r"^pointwise", 32, "s"),
    Requirement(r"^reduce_(rows|periodic|blocked)", 24, "l", fp64=True, division=True, barriers=True),
    Requirement(r"^reduce_scatter", 32, fp64=True, division=True, barriers=True),
]

# Exceptions for one architecture: (architecture, pattern, field).
EXCEPTIONS = [
    # The compiler spills 4 bytes per pixel to stay at 32 registers, with which all warps are resident. For more than 128
    # channels that are not a multiple of 8.
    (80, r"rms_wide_backward_kernel<unsigned short, 1>", "stack"),
    # Once per thread, as above.
    (100, r"instance_norm_\w+_kernel<float, 4>", "division"),
]

# --- Cubins: ELF files, see NVIDIA's "CUDA Binary Utilities" ----------------------------------------------------------
EM_CUDA = 190
MAX_THREADS, FRAME_SIZE, REGISTERS = 0x05, 0x11, 0x2F  # attributes of .nv.info
Kernel = collections.namedtuple("Kernel", "name threads registers stack shared size counts calls in_flight")


def sections_of(image):
    at, entry, count, names = struct.unpack_from("<Q10xHHH", image, 40)
    heads = [struct.unpack_from("<IIQQQQIIQQ", image, at + i * entry) for i in range(count)]
    text = image[heads[names][4] :]
    return [(text[h[0] : text.index(b"\0", h[0])].decode(), h) for h in heads]


def bytes_of(image, head):
    return image[head[4] : head[4] + head[5]]


def attributes(info):
    """(attribute, payload) of a .nv.info section. An entry has a format, an attribute, and a 16-bit value or a payload of
    that size."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        payload = info[at + 4 : at + 4 + value] if form == 4 else b""
        yield attribute, payload
        at += 4 + len(payload)


# Opcodes of 128-bit instructions, their lowest 12 bits (9 for arithmetic, since the others encode the kind of operands).
# Bits 73 to 75 are the width of an access: 4 to 6 are 4, 8 and 16 bytes. check_against_disassembler verifies them.
MEMORY = {0x981: "LDG", 0x986: "STG", 0x983: "LDL", 0x387: "STL"}
JUMPS = {0x947: "BRA", 0x547: "BRA"}  # the second, on sm_100, has a uniform predicate
OTHERS = {0xB1D: "BAR", 0x944: "CALL", **JUMPS}
ARITHMETIC = {0x029: "DADD", 0x028: "DMUL", 0x02B: "DFMA", 0x02A: "DSETP"}


def count_instructions(code):
    counts = collections.Counter()
    for low, high in struct.iter_unpack("<QQ", code):
        if low & 0xFFF in MEMORY:
            counts[MEMORY[low & 0xFFF] + (".128" if high >> 9 & 7 == 6 else "")] += 1
        elif low & 0xFFF in OTHERS:
            counts[OTHERS[low & 0xFFF]] += 1
        elif low & 0x1FF in ARITHMETIC:
            counts[ARITHMETIC[low & 0x1FF]] += 1
    return counts


def loads_in_flight(code):
    """The largest number of global loads without a jump between them: (16-byte loads, all loads)."""
    longest, row = [0, 0], [0, 0]
    for low, high in struct.iter_unpack("<QQ", code):
        if low & 0xFFF in JUMPS:
            row = [0, 0]
        elif low & 0xFFF == 0x981:
            row = [row[0] + (high >> 9 & 7 == 6), row[1] + 1]
            longest = [max(pair) for pair in zip(longest, row)]
    return longest


def kernels_of(image):
    """The kernels of a cubin, with mangled names."""
    sections = sections_of(image)
    by_name = dict(sections)
    strings = bytes_of(image, by_name[".strtab"])
    symbols = []  # (name, section) by index
    for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", bytes_of(image, by_name[".symtab"])):
        symbols.append((strings[name : strings.index(b"\0", name)].decode(), section))
    of_kernel = collections.defaultdict(dict)
    for attribute, payload in attributes(bytes_of(image, by_name[".nv.info"])):
        if attribute in (FRAME_SIZE, REGISTERS):
            symbol, value = struct.unpack("<II", payload)
            of_kernel[symbols[symbol][0]][attribute] = value
    found = []
    for index, (section, head) in enumerate(sections):
        if not section.startswith(".text."):
            continue
        name = section[len(".text.") :]
        own = dict(attributes(bytes_of(image, by_name[".nv.info." + name])))
        threads = struct.unpack("<III", own[MAX_THREADS])[0] if MAX_THREADS in own else 0
        shared = by_name.get(".nv.shared." + name, (0,) * 6)[5]
        calls = [re.sub(r"^\$__internal_\d+_\$", "", s) for s, i in symbols if i == index and "__internal_" in s]
        code, values = bytes_of(image, head), of_kernel[name]
        counts = count_instructions(code)
        kernel = Kernel(name, threads, values[REGISTERS], values[FRAME_SIZE], shared, len(code), counts, calls, loads_in_flight(code))
        found.append(kernel)
    return found


def cubins_in(data):
    """(architecture, image) of every cubin in the bytes of a file."""
    for match in re.finditer(b"\x7fELF\x02\x01", data):
        image = data[match.start() :]
        if struct.unpack_from("<H", image, 18)[0] == EM_CUDA:
            yield struct.unpack_from("<I", image, 48)[0] >> 8 & 0xFF, image


def demangle(kernels):
    mangled = "\n".join(k.name for k in kernels)
    names = subprocess.run(["c++filt"], input=mangled, capture_output=True, text=True, check=True).stdout.splitlines()
    short = [re.sub(r"^void ", "", re.sub(r"\([^()]*\)$", "", name)) for name in names]
    return [k._replace(name=name) for k, name in zip(kernels, short)]


# --- Occupancy (CUDA C++ Programming Guide, compute capability 9.0) ---------------------------------------------------
REGISTER_FILE, SHARED_MEMORY, MOST_WARPS, MOST_BLOCKS = 65536, 228 << 10, 64, 32


def blocks_of(kernel):
    """Resident blocks per multiprocessor. Registers are allocated to warps in units of 256, warps to four partitions."""
    warps = (kernel.threads + 31) // 32
    per_warp = (kernel.registers * 32 + 255) // 256 * 256
    by_registers = REGISTER_FILE // per_warp // 4 * 4 // warps
    by_shared = SHARED_MEMORY // max(kernel.shared, 1024)  # the driver reserves 1 KiB per block
    return min(by_registers, by_shared, MOST_WARPS // warps, MOST_BLOCKS)


# --- Checks -----------------------------------------------------------------------------------------------------------


def report(name, problems):
    global failed, number
    number += 1
    failed += bool(problems)
    print(f"{'not ok' if problems else 'ok'} {number} - {name}")
    for problem in problems:
        print("#   " + problem)


def skip(name, reason):
    global number
    number += 1
    print(f"ok {number} - {name} # SKIP {reason}")


def requirement_of(kernel, arch):
    requirement = next((p for p in REQUIREMENTS if re.search(p.pattern, kernel.name)), None)
    fields = [field for a, pattern, field in EXCEPTIONS if a == arch and re.search(pattern, kernel.name)]
    return requirement and requirement._replace(**dict.fromkeys(fields, True))


def print_table(title, kernels):
    print(f"# {title}: registers, shared bytes, blocks and warps per multiprocessor, instructions")
    for kernel in sorted(kernels):
        blocks = blocks_of(kernel) if kernel.threads else 0
        print(
            f"# {kernel.name[:62]:62} {kernel.registers:4} {kernel.shared:6} {blocks:3} "
            f"{blocks * kernel.threads // 32:3} {kernel.size // 16:5}"
        )


def check(what, kernels, arch):
    what = f"sm_{arch}: {what}"
    pairs = [(kernel, requirement_of(kernel, arch)) for kernel in kernels]
    unknown = [kernel.name for kernel, requirement in pairs if requirement is None]
    report(f"{what}: all {len(kernels)} have requirements", unknown if kernels else ["no kernels found"])
    pairs = [(k, p) for k, p in pairs if p]

    def check_all(name, fails, describe):
        report(f"{what}: {name}", [f"{k.name}: {describe(k, p)}" for k, p in pairs if fails(k, p)])

    check_all(
        "no register spills",
        lambda k, p: not p.stack and (k.stack > 0 or k.counts["LDL"] or k.counts["STL"]),
        lambda k, p: f"{k.stack} bytes of stack, {k.counts['LDL']} loads and {k.counts['STL']} stores of local memory",
    )
    check_all(
        "loads and stores are 16 bytes wide",
        lambda k, p: ("l" in p.vectors and not k.counts["LDG.128"]) or ("s" in p.vectors and not k.counts["STG.128"]),
        lambda k, p: f"{k.counts['LDG.128']} wide loads of {k.counts['LDG.128'] + k.counts['LDG']}, "
        f"{k.counts['STG.128']} wide stores of {k.counts['STG.128'] + k.counts['STG']}",
    )
    check_all(
        "FP64 only in sums",
        lambda k, p: not p.fp64 and any(k.counts[name] for name in ARITHMETIC.values()),
        lambda k, p: f"{sum(k.counts[name] for name in ARITHMETIC.values())} FP64 instructions",
    )
    check_all(
        "no 64-bit integer division in inner loops",
        lambda k, p: not p.division and any(re.search(r"(div|rem)_[su]64", call) for call in k.calls),
        lambda k, p: ", ".join(k.calls),
    )
    check_all(
        "barriers only in kernels that exchange data",
        lambda k, p: not p.barriers and k.counts["BAR"],
        lambda k, p: f"{k.counts['BAR']} barriers",
    )
    if arch != TUNED:
        return
    check_all(
        "enough resident warps to hide memory latency",
        lambda k, p: p.warps > 0 and (k.threads == 0 or blocks_of(k) * k.threads // 32 < p.warps),
        lambda k, p: f"{k.registers} registers, {k.threads} threads: fewer than {p.warps} warps",
    )
    check_all(
        "enough loads in flight",
        lambda k, p: k.in_flight["l" not in p.vectors] < p.in_flight,
        lambda k, p: f"{k.in_flight['l' not in p.vectors]} loads without a jump between them, {p.in_flight} expected",
    )


# --- Input ------------------------------------------------------------------------------------------------------------


def cuda_objects():
    return sorted(glob.glob(f"{BUILD}/obj/engine/cuda/**/*.cu.o", recursive=True))


def built_kernels():
    """The kernels of the object files, by architecture."""
    found = collections.defaultdict(list)
    for path in cuda_objects():
        with open(path, "rb") as file:
            for arch, image in cubins_in(file.read()):
                found[arch] += kernels_of(image)
    return {arch: demangle(found[arch]) for arch in sorted(found)}


def generated_kernels(arch):
    found = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([f"{BUILD}/tests/gpu/test_nvrtc", "--keep", folder, str(arch)], check=True, capture_output=True)
        for name in sorted(os.listdir(folder)):
            with open(f"{folder}/{name}", "rb") as file:
                for made_for, image in cubins_in(file.read()):
                    own = kernels_of(image) if made_for == arch else []
                    found += [k._replace(name=f"{k.name} {name.split('.')[0][:8]}") for k in own]
    return found


def disassembled(path, arch):
    """Registers and instruction counts of each kernel of a file, by NVIDIA's cuobjdump."""
    tool = shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump")
    run = lambda *flags: subprocess.run([tool, *flags, path], capture_output=True, text=True, check=True).stdout
    found = {}
    for name, registers in re.findall(r"Function (\S+):\s+REG:(\d+)", run("-res-usage", "-arch", f"sm_{arch}")):
        found[name] = (int(registers), collections.Counter())
    for part in re.split(r"Function : ", run("-sass", "-arch", f"sm_{arch}"))[1:]:
        counts = found[part.split()[0]][1]
        for operation in re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", part):
            base = operation.split(".")[0]
            if base in {*MEMORY.values(), *OTHERS.values(), *ARITHMETIC.values()}:
                counts[base + (".128" if base in MEMORY.values() and ".128" in operation else "")] += 1
    return found


def check_against_disassembler(archs):
    name = "registers and instruction counts equal those of cuobjdump"
    if not (shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump")):
        return skip(name, "cuobjdump not found")
    problems = []
    for path in cuda_objects():
        expected = {arch: disassembled(path, arch) for arch in archs}
        with open(path, "rb") as file:
            for arch, image in cubins_in(file.read()):
                for kernel in kernels_of(image):
                    if expected[arch].pop(kernel.name, None) != (kernel.registers, kernel.counts):
                        problems.append(f"sm_{arch}: {kernel.name}")
        problems += [f"sm_{arch}: {name}" for arch in archs for name in expected[arch]]
    return report(name, problems)


def main():
    built = built_kernels()
    if not built:
        skip("machine code", f"no kernels in {BUILD}: not built with a CUDA toolkit")
        print("1..1")
        return 0
    for arch, kernels in built.items():
        for what, some in (("kernels", kernels), ("generated kernels of all configs", generated_kernels(arch))):
            if arch == TUNED:
                print_table(what, some)
            check(what, some, arch)
    check_against_disassembler(built)
    print(f"1..{number}")
    return 1 if failed else 0


sys.exit(main())
