#!/usr/bin/python3
"""The machine code of the CUDA kernels, read without a GPU: registers, spills, resident blocks, 16-byte accesses,
FP64, 64-bit division, barriers. For each architecture of the build: the kernels of its objects and those that NVRTC
makes for every config. A kernel that is new gets an entry in PROMISES.

Prints a table of TUNED's as comments: registers, shared memory, blocks and warps on a multiprocessor, instructions.
"""
import collections
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
BUILD = os.environ.get("BUILD", "build")
TUNED = 90  # the architecture that kernels were timed on
failed = number = 0

# --- What a kernel promises: the first entry whose pattern its name matches holds -------------------------------------
# warps: that must fit on a multiprocessor at once (TUNED). wide: l, s: has 16-byte loads, stores. fp64, division (of
# 64-bit integers, a call of 100 instructions), barriers, stack: may have them. together (TUNED): so many loads (of 16
# bytes, where wide says l) stand without a jump between them, so that they are under way at once: behind a jump a load
# waits for what stands in front of it.
FIELDS = "pattern warps wide fp64 division barriers stack together"
Promise = collections.namedtuple("Promise", FIELDS, defaults=("", False, False, False, False, 0))
PROMISES = [
    # On small tensors, when a backend starts.
    Promise(r"reference_", 0, fp64=True, division=True, barriers=True, stack=True),
    # One thread.
    Promise(r"adam_plan", 0, fp64=True),
    Promise(r"adam_kernel|fill_kernel|store_kernel", 40, "s"),
    # Tensors beyond 2^32 accesses divide in 64 bits.
    Promise(r"movement_kernel<16, unsigned int>", 64, "ls"),
    Promise(r"movement_kernel<\d+, unsigned int>", 64),
    Promise(r"movement_kernel", 40, division=True),
    Promise(r"map_copy_kernel<16, \d+, unsigned int>", 64, "ls"),
    Promise(r"map_sum_kernel<(unsigned short, 8|float, 4), [48], unsigned int>", 40, "ls"),
    Promise(r"map_sum_kernel<.*, 6, 1, unsigned int>", 40),
    Promise(r"map_\w+<.*, unsigned int>", 48),
    Promise(r"map_\w+", 40, division=True),
    # Windows of 2 x 2: all of one, and in the backward pass its gradient, are under way at once.
    Promise(r"max_pool_kernel<(unsigned short, 8|float, 4), 2>", 48, "ls", together=4),
    Promise(r"max_pool_backward_kernel<(unsigned short, 8|float, 4), 2>", 40, "ls", together=5),
    Promise(r"max_pool_kernel<\w+( \w+)?, 1, 2>", 48, together=4),
    Promise(r"max_pool_backward_kernel<\w+( \w+)?, 1, 2>", 48, together=5),
    Promise(r"max_pool_\w+<(unsigned short, 8|float, 4), 0>", 32, "ls"),
    Promise(r"max_pool_\w+<", 48),
    Promise(r"pad_crop_kernel<.*, [48], unsigned int>", 64, "ls"),
    Promise(r"pad_crop_kernel<.*, unsigned int>", 64),
    Promise(r"pad_crop_kernel", 40, division=True),
    Promise(r"im2col_packs_kernel<.*, 1, unsigned int>", 48),
    Promise(r"im2col_packs_kernel<.*, unsigned int>", 48, "ls"),
    Promise(r"im2col_packs_kernel", 32, division=True),
    Promise(r"im2col_rows_kernel", 64, "s", barriers=True, together=4),
    Promise(r"col2im_kernel<.*, 1, unsigned int>", 64, together=2),
    Promise(r"col2im_kernel<.*, [346], unsigned int>", 64, together=6),
    Promise(r"col2im_kernel", 32, division=True),
    Promise(r"permute_kernel", 32, division=True),
    Promise(r"column_parts_kernel<(unsigned short, 8|float, 4)>", 40, "l", division=True, barriers=True),
    Promise(r"column_\w+", 40, division=True, barriers=True),
    Promise(r"rms_forward_kernel<(unsigned short, 8|float, 4), 1,", 32, "ls", together=4),  # two pixels, and residuals
    Promise(r"rms_forward_kernel<(unsigned short, 8|float, 4), 2,", 24, "ls", together=4),
    Promise(r"rms_forward_kernel<(unsigned short, 8|float, 4), 4,", 16, "ls", together=8),
    Promise(r"rms_forward_kernel", 32),
    Promise(r"rms_backward_kernel<unsigned short, 8, 4,", 8, "ls", barriers=True, together=8),
    Promise(r"rms_backward_kernel<(unsigned short, 8|float, 4), 4,", 16, "ls", barriers=True, together=8),
    Promise(r"rms_backward_kernel<(unsigned short, 8|float, 4), 2,", 16, "ls", barriers=True, together=4),
    Promise(r"rms_backward_kernel<(unsigned short, 8|float, 4), 1,", 24, "ls", barriers=True, together=2),
    Promise(r"rms_backward_kernel", 32, barriers=True),
    Promise(r"wide_(forward|backward)_kernel<(unsigned short, 8|float, 4)>", 40, "ls", barriers=True),
    Promise(r"wide_(forward|backward)_kernel", 40, barriers=True),
    Promise(r"wide_partials_kernel", 40, division=True),
    Promise(r"frames_\w+_kernel<(unsigned short, 8|float, 4)>", 24, "ls"),
    # The compiler divides once a thread, for the trips of a loop that it unrolls.
    Promise(r"frames_\w+_kernel", 40, division=True),
    Promise(r"^(moments|gradient_sums)_kernel<(unsigned short, 8|float, 4)>", 24, "l", division=True, barriers=True),
    Promise(r"^(moments|gradient_sums)_kernel", 40, division=True, barriers=True),
    Promise(r"group_\w+_kernel", 40, barriers=True),
    Promise(r"parameters_kernel", 64, barriers=True),
    Promise(r"finish_kernel", 64, fp64=True, division=True, barriers=True),
    Promise(r"pieces_kernel", 40, "l", fp64=True, barriers=True),
    Promise(r"ranges_kernel", 40, fp64=True, barriers=True),
    # Generated.
    Promise(r"^pointwise", 32, "s"),
    Promise(r"^reduce_(rows|periodic|blocked)", 24, "l", fp64=True, division=True, barriers=True),
    Promise(r"^reduce_scatter", 32, fp64=True, division=True, barriers=True),
]

# What the compiler does on one architecture alone, and may: (architecture, kernels, field).
ALLOWED = [
    # Keeps to 32 registers, with which all warps are resident, for 4 bytes that are read back once a pixel. For channels
    # above 128 that are no multiple of 8.
    (80, r"wide_backward_kernel<unsigned short, 1>", "stack"),
    # Once a thread, as above.
    (100, r"frames_\w+_kernel<float, 4>", "division"),
]

# --- Cubins: ELF files as NVIDIA's tools describe them ("CUDA Binary Utilities") --------------------------------------
EM_CUDA = 190
MAX_THREADS, FRAME_SIZE, REGISTERS = 0x05, 0x11, 0x2F  # attributes of .nv.info
Kernel = collections.namedtuple("Kernel", "name threads registers stack shared size counts calls together")


def sections_of(image):
    at, entry, count, names = struct.unpack_from("<Q10xHHH", image, 40)
    heads = [struct.unpack_from("<IIQQQQIIQQ", image, at + i * entry) for i in range(count)]
    text = image[heads[names][4] :]
    return [(text[h[0] : text.index(b"\0", h[0])].decode(), h) for h in heads]


def bytes_of(image, head):
    return image[head[4] : head[4] + head[5]]


def attributes(info):
    """(attribute, payload) of a .nv.info section: format, attribute, and a 16-bit value or a payload of that size."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        payload = info[at + 4 : at + 4 + value] if form == 4 else b""
        yield attribute, payload
        at += 4 + len(payload)


# What is counted of an instruction of 128 bits, told by its lowest 12 bits (9 for arithmetic: the others say where
# operands lie); bits 73 to 75 hold how wide an access is: 4 to 6 are 4, 8 and 16 bytes. Checked below against NVIDIA's
# disassembler, where there is one.
MEMORY = {0x981: "LDG", 0x986: "STG", 0x983: "LDL", 0x387: "STL"}
JUMPS = {0x947: "BRA", 0x547: "BRA"}  # the latter, of sm_100, by a uniform predicate
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


def loads_together(code):
    """The longest row of global loads without a jump between them: those of 16 bytes, and all."""
    longest, row = [0, 0], [0, 0]
    for low, high in struct.iter_unpack("<QQ", code):
        if low & 0xFFF in JUMPS:
            row = [0, 0]
        elif low & 0xFFF == 0x981:
            row = [row[0] + (high >> 9 & 7 == 6), row[1] + 1]
            longest = [max(pair) for pair in zip(longest, row)]
    return longest


def kernels_of(image):
    """The kernels of a cubin; names are mangled."""
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
        kernel = Kernel(name, threads, values[REGISTERS], values[FRAME_SIZE], shared, len(code), counts, calls, loads_together(code))
        found.append(kernel)
    return found


def cubins_in(data):
    """(architecture, image) of every cubin that lies in the bytes of a file."""
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
    """How many blocks a multiprocessor holds: registers are dealt out to warps by 256, warps to its four parts."""
    warps = (kernel.threads + 31) // 32
    of_warp = (kernel.registers * 32 + 255) // 256 * 256
    by_registers = REGISTER_FILE // of_warp // 4 * 4 // warps
    by_shared = SHARED_MEMORY // max(kernel.shared, 1024)  # the system takes 1 KiB a block
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


def promise_of(kernel, arch):
    promise = next((p for p in PROMISES if re.search(p.pattern, kernel.name)), None)
    fields = [field for a, pattern, field in ALLOWED if a == arch and re.search(pattern, kernel.name)]
    return promise and promise._replace(**dict.fromkeys(fields, True))


def print_table(title, kernels):
    print(f"# {title}: registers, shared bytes, blocks and warps on a multiprocessor, instructions")
    for kernel in sorted(kernels):
        blocks = blocks_of(kernel) if kernel.threads else 0
        print(
            f"# {kernel.name[:62]:62} {kernel.registers:4} {kernel.shared:6} {blocks:3} "
            f"{blocks * kernel.threads // 32:3} {kernel.size // 16:5}"
        )


def check(what, kernels, arch):
    what = f"sm_{arch}: {what}"
    pairs = [(kernel, promise_of(kernel, arch)) for kernel in kernels]
    unknown = [kernel.name for kernel, promise in pairs if promise is None]
    report(f"{what}: each of {len(kernels)} is in the list of promises", unknown if kernels else ["there is none"])
    pairs = [(k, p) for k, p in pairs if p]

    def verdict(name, broken, words):
        report(f"{what}: {name}", [f"{k.name}: {words(k, p)}" for k, p in pairs if broken(k, p)])

    verdict(
        "nothing is spilled",
        lambda k, p: not p.stack and (k.stack > 0 or k.counts["LDL"] or k.counts["STL"]),
        lambda k, p: f"{k.stack} bytes of stack, {k.counts['LDL']} loads and {k.counts['STL']} stores of local memory",
    )
    verdict(
        "accesses are of 16 bytes",
        lambda k, p: ("l" in p.wide and not k.counts["LDG.128"]) or ("s" in p.wide and not k.counts["STG.128"]),
        lambda k, p: f"{k.counts['LDG.128']} wide loads of {k.counts['LDG.128'] + k.counts['LDG']}, "
        f"{k.counts['STG.128']} wide stores of {k.counts['STG.128'] + k.counts['STG']}",
    )
    verdict(
        "no FP64 but where sums want it",
        lambda k, p: not p.fp64 and any(k.counts[name] for name in ARITHMETIC.values()),
        lambda k, p: f"{sum(k.counts[name] for name in ARITHMETIC.values())} FP64 instructions",
    )
    verdict(
        "no division of 64-bit integers where many are done",
        lambda k, p: not p.division and any(re.search(r"(div|rem)_[su]64", call) for call in k.calls),
        lambda k, p: ", ".join(k.calls),
    )
    verdict(
        "barriers only where threads exchange",
        lambda k, p: not p.barriers and k.counts["BAR"],
        lambda k, p: f"{k.counts['BAR']} barriers",
    )
    if arch != TUNED:
        return
    verdict(
        "as many warps are resident as hide the memory's latency",
        lambda k, p: p.warps > 0 and (k.threads == 0 or blocks_of(k) * k.threads // 32 < p.warps),
        lambda k, p: f"{k.registers} registers, {k.threads} threads: fewer than {p.warps} warps",
    )
    verdict(
        "loads are under way together",
        lambda k, p: k.together["l" not in p.wide] < p.together,
        lambda k, p: f"{k.together['l' not in p.wide]} loads without a jump between them, {p.together} expected",
    )


# --- What is read -----------------------------------------------------------------------------------------------------


def built_kernels():
    """The kernels of each architecture."""
    found, folder = collections.defaultdict(list), f"{BUILD}/obj/engine/cuda"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.endswith(".cu.o"):
            with open(f"{folder}/{name}", "rb") as file:
                for arch, image in cubins_in(file.read()):
                    found[arch] += kernels_of(image)
    return {arch: demangle(found[arch]) for arch in sorted(found)}


def generated_kernels(arch):
    found = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([f"{BUILD}/tests/gpu/test_jit", "--keep", folder, str(arch)], check=True, capture_output=True)
        for name in sorted(os.listdir(folder)):
            with open(f"{folder}/{name}", "rb") as file:
                for made_for, image in cubins_in(file.read()):
                    own = kernels_of(image) if made_for == arch else []
                    found += [k._replace(name=f"{k.name} {name.split('.')[0][:8]}") for k in own]
    return found


def disassembled(path, arch):
    """What NVIDIA's disassembler says of a file: for each kernel, registers and counts, as above."""
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
    name = "registers and instructions as cuobjdump tells them"
    if not (shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump")):
        return skip(name, "no cuobjdump here")
    problems, folder = [], f"{BUILD}/obj/engine/cuda"
    for file_name in sorted(os.listdir(folder)):
        if not file_name.endswith(".cu.o"):
            continue
        told = {arch: disassembled(f"{folder}/{file_name}", arch) for arch in archs}
        with open(f"{folder}/{file_name}", "rb") as file:
            for arch, image in cubins_in(file.read()):
                for kernel in kernels_of(image):
                    if told[arch].pop(kernel.name, None) != (kernel.registers, kernel.counts):
                        problems.append(f"sm_{arch}: {kernel.name}")
        problems += [f"sm_{arch}: {name}" for arch in archs for name in told[arch]]
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
