"""The commands of the campaign: each has inputs, a command line, and outputs that a fault may not damage."""
import json
import os
import random
import struct
import zlib

import support_world
from support_world import runs

TRAIN = {"train.steps": 4, "train.threads": 1, "train.device": "cpu", "checkpoint.every": 2, "checkpoint.keep": 2, "samples.every": 2,
         "samples.clips": 2, "comm.reduce": "reproducible", "comm.timeout": 40, "comm.start_timeout": 40,
         "comm.checkpoint_timeout": 40, "comm.evaluation_timeout": 40}


class Tool:
    """A command. `arguments` has "@" for the folder of its files, `inputs` are functions that make its inputs there, `complete`
    has words of the message that refuses to write a finished output again."""

    def __init__(self, name, arguments, inputs=(), complete=(), ranks=1):
        self.name, self.arguments, self.inputs, self.complete, self.ranks = name, arguments, tuple(inputs), complete, ranks

    def command(self, folder):
        start = ["mpirun", "--oversubscribe", "-np", str(self.ranks)] if self.ranks > 1 else []
        return start + [runs.CELFORGE] + [word.replace("@", folder + os.sep) for word in self.arguments.split()]


# --- Inputs -----------------------------------------------------------------------------------------------


def celforge(*words):
    support_world.must_run([runs.CELFORGE, *words])


def data(folder):
    celforge("synth", f"{folder}/data", "--clips", "6", "--frames", "2", "--size", "32x32", "--threads", "1", "--clips-per-shard", "4")


def parts(folder):
    for number, name in enumerate(("a", "b")):
        celforge("synth", f"{folder}/parts/{name}", "--clips", "3", "--frames", "2", "--size", "32x32", "--threads", "1",
                 "--first-clip", str(3 * number))


def video(folder):
    celforge("synth", f"{folder}/in.mp4", "--frames", "6", "--size", "48x32")


def write_png(path, seed, width=32, height=32):
    """Writes a picture of random colours."""
    rows = b"".join(b"\0" + random.Random(f"{seed}-{y}").randbytes(3 * width) for y in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in chunks:
            file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))


def frames(folder):
    for name in ("source", "target"):
        os.mkdir(f"{folder}/{name}")
        for number in range(4):
            write_png(f"{folder}/{name}/{number:04}.png", f"{name}-{number}")


def write_config(folder, **settings):
    values = {**runs.TINY, **TRAIN, "run.dir": f"{folder}/run", "data.path": f"{folder}/data",
              **{key.replace("__", "."): value for key, value in settings.items()}}
    sections = {}
    for key, value in values.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    with open(f"{folder}/run.yaml", "w", encoding="utf-8") as file:
        json.dump(sections, file, indent=1)  # JSON is YAML


def config(folder):
    write_config(folder)


def trained(folder):
    data(folder)
    config(folder)
    celforge("train", f"{folder}/run.yaml")


def to_resume(folder):
    """A run of 4 steps, to be continued to 8."""
    trained(folder)
    write_config(folder, train__steps=8)


def to_start(folder):
    """A run whose weights another run is initialised with."""
    trained(folder)
    os.rename(f"{folder}/run", f"{folder}/other")
    write_config(folder, run__init=f"{folder}/other")


def old_output(*names):
    def make(folder):
        for name in names:
            with open(f"{folder}/{name}", "w", encoding="ascii") as file:
                file.write("an older output\n")
    return make


def model_file(folder):
    trained(folder)
    celforge("export", f"{folder}/look.safetensors", "--checkpoint", f"{folder}/run", "--format", "model", "--date", "2026-01-01",
             "--look", "a look", "--licence", "MIT", "--trained-on", "clips", "--height", "32")


# --- Commands ----------------------------------------------------------------------------------------------

HOLDS = ("already holds a dataset",)
DATASET = "--frames 2 --clips-per-shard 4"
SCORE = "--clips 2 --no-flow --no-classifier --threads 1 --device cpu"
TOOLS = {tool.name: tool for tool in (
    Tool("synth", f"synth @out --clips 6 --size 32x32 --threads 1 {DATASET}", complete=HOLDS),
    Tool("synth-deflate", f"synth @a/b/out --clips 6 --size 32x32 --threads 2 --deflate {DATASET}", complete=HOLDS),
    Tool("synth-video", "synth @out.mp4 --frames 6 --size 48x32"),
    Tool("pack", f"pack @out --source @in.mp4 --look comic --size 32x {DATASET}", [video], HOLDS),
    Tool("pack-png", f"pack @out --source @source --target @target {DATASET}", [frames], HOLDS),
    Tool("join", "join @out @parts", [parts], HOLDS),
    Tool("join-copy", "join @out @parts --clips-per-shard 2 --deflate", [parts], HOLDS),
    Tool("verify", "verify @data", [data]),
    Tool("info-shard", "info @data/shard-00000.h5", [data]),
    Tool("info-data", "info @data", [data]),
    Tool("info-checkpoint", "info @run/checkpoints/step-00000004", [trained]),
    Tool("info-run", "info @run", [trained]),
    Tool("config", "config --check @run.yaml", [data, config]),
    Tool("train", "train @run.yaml --resume auto", [data, config]),
    Tool("train-2", "train @run.yaml --resume auto", [data, config], ranks=2),
    Tool("train-init", "train @run.yaml --resume auto", [to_start]),
    Tool("train-used", "train @run.yaml --resume none", [to_resume]),  # is refused
    Tool("resume", "train @run.yaml --resume auto", [to_resume]),
    Tool("resume-2", "train @run.yaml --resume auto", [to_resume], ranks=2),
    Tool("resume-path", "train @run.yaml --resume @run", [to_resume]),
    Tool("eval", f"eval --checkpoint @run --data @data --json @out.json {SCORE}", [trained]),
    Tool("export-onnx", "export @out.onnx --checkpoint @run --format onnx", [trained, old_output("out.onnx")]),
    Tool("export-stream", "export @out.onnx --checkpoint @run --format onnx --stream", [trained]),
    Tool("export-safetensors", "export @out.safetensors --checkpoint @run --format safetensors", [trained]),
    Tool("export-model", "export @out.safetensors --checkpoint @run --format model --date 2026-01-01 --look L --licence MIT "
         "--trained-on clips --height 32", [trained]),
    Tool("translate", "translate @in.mp4 @out.mp4 --checkpoint @run --threads 1 --device cpu", [trained, video, old_output("out.mp4")]),
    Tool("translate-model", "translate @in.mp4 @out.mp4 --model @look.safetensors --threads 1 --device cpu", [model_file, video]),
    Tool("translate-png", "translate @source @out --checkpoint @run --threads 1 --device cpu", [trained, frames]),
    Tool("translate-picture", "translate @source/0000.png @out.png --checkpoint @run --threads 1 --device cpu", [trained, frames]),
)}
