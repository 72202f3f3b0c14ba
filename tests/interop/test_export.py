#!/usr/bin/python3
"""Exported models in other programs: the PyTorch modules of docs/export.md load the weights, ONNX Runtime runs clips and
streams of any size, and both reproduce Celforge's output from the checkpoint."""
import json
import os
import re
import subprocess
import sys

import numpy as np
import torch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/oracle"))
import support  # noqa: E402
import packages  # noqa: E402
from celforge_torch import normalize, read_safetensors  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
FRAMES = 4
TOLERANCE = 2e-5  # of values in about [-1, 1]
SMALL = {**support.GENERATOR_ALONE, "data.path": "clips", "train.device": "cpu"}
PUBLISHED = {"model.generator": "pix2pixhd", "model.temporal": "none", "model.downsamplings": 2}
# Settings to train with, and the source sizes (height, width) to test.
MODELS = {
    "rms": ({}, [(32, 32), (37, 46), (5, 7)]),
    "noise": ({"model.norm": "group", "model.channels": 16, "model.noise_channels": 2}, [(35, 30)]),
    "still": ({"model.norm": "instance", "model.temporal": "none"}, [(33, 40)]),
    "recurrent": ({"model.temporal": "convgru", "train.steps": 8}, [(30, 37)]),
    "published": ({**PUBLISHED, "model.norm": "instance"}, [(24, 32), (19, 5)]),
    "enhanced": ({**PUBLISHED, "model.local_enhancers": 1, "model.norm": "none", "data.path": "stacked", "train.global_batch": 1},
                 [(13, 18)]),
    "pixelwise": ({**PUBLISHED, "model.local_enhancers": 1, "model.norm": "rms", "model.noise_channels": 1}, [(22, 17)]),
    "refined": ({"model.refinements": 2}, [(18, 33)]),
    "smooth": ({"model.smooth_base": True, "model.refinements": 1, "model.noise_channels": 1}, [(21, 34), (32, 32)]),
    "smooth-scaled": ({"model.smooth_base": True, "data.path": "stacked", "train.global_batch": 1}, [(13, 22)]),
    "toned": ({"model.tones": 16, "model.smooth_base": True, "model.norm": "none", "model.temporal": "none"}, [(18, 33)]),
    "large": ({"model.norm": "none", "data.path": "stacked", "train.global_batch": 1}, [(21, 32)]),
}


def documented_modules():
    """Executes the Python block of docs/export.md; returns its modules by model.generator."""
    with open(os.path.join(ROOT, "docs/export.md"), encoding="utf-8") as file:
        (code,) = re.findall(r"^```python\n(.*?)^```", file.read(), re.M | re.S)
    names = {}
    exec(compile(code, "docs/export.md", "exec"), names)
    return {"celnet": names["Generator"], "pix2pixhd": names["Pix2PixHD"]}


def metadata(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length))["__metadata__"]


def stacked_dataset():
    """Two stacked sources of half the target's size."""
    support.run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10", "-frames:v", "8",
                "-c:v", "ffv1", "video.mkv")
    support.celforge("pack", "stacked", "--source", "video.mkv", "--also", "video.mkv", "--target-filter", "negate",
                     "--scale", "2", "--frames", "4")


def run_onnx(folder, jobs):
    """Returns name -> (output, metadata of the model)."""
    with open("jobs.json", "w", encoding="utf-8") as file:
        json.dump(jobs, file)
    environment = {**os.environ, "PYTHONPATH": folder}
    text = support.run(sys.executable, os.path.join(HERE, "run_onnx.py"), "jobs.json", "results.npz", env=environment)
    facts = {fact["name"]: fact for fact in map(json.loads, text.decode().splitlines())}
    outputs = np.load("results.npz")
    return {name: (outputs[name], facts[name]) for name in outputs.files}


class Exported:
    """A trained model and its exports; inputs and outputs for each size."""

    def __init__(self, name):
        settings, self.sizes = MODELS[name]
        settings = {**SMALL, **settings}
        self.name, self.run = name, support.train(os.path.abspath(name), settings)
        self.scale, self.channels = (2, 6) if settings["data.path"] == "stacked" else (1, 3)
        self.noise = settings.get("model.noise_channels", 0)
        self.kinds = ["stream"] if name == "recurrent" else ["clip", "stream"]
        for kind in self.kinds:
            flags = ["--stream"] if kind == "stream" else []
            support.celforge("export", "--checkpoint", self.run, "--format", "onnx", *flags, f"{name}.{kind}.onnx")
        support.celforge("export", "--checkpoint", self.run, "--format", "safetensors", f"{name}.safetensors")

    def inputs(self, size):
        """Returns the source as u8 [1,T,H,W,C] and as [1,C,T,H,W] in [-1, 1], and noise or None."""
        random = np.random.default_rng(1)
        source = random.integers(0, 256, (1, FRAMES, *size, self.channels), np.uint8)
        shape = (1, self.noise, FRAMES, size[0] * self.scale, size[1] * self.scale)
        return source, normalize(source).numpy(), random.standard_normal(shape, np.float32) if self.noise else None

    def celforge(self, size, weights="ema"):
        """Celforge's unrounded output [1,3,T,H,W]; only for models without noise, which cannot be passed in."""
        shape = [FRAMES, *size, self.channels, size[0] * self.scale, size[1] * self.scale]
        program = os.path.join(support.BUILD, "tests/oracle/forward")
        output = support.run(program, self.run, weights, "f32", *map(str, shape), input=self.inputs(size)[0].tobytes())
        return np.frombuffer(output, "<f4").reshape(1, FRAMES, *shape[4:], 3).transpose(0, 4, 1, 2, 3)

    def torch(self, modules, size, file=None):
        path = file or f"{self.name}.safetensors"
        generator = modules[metadata(path)["celforge.model.generator"]](metadata(path))
        generator.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in read_safetensors(path).items()})
        _, source, noise = self.inputs(size)
        with torch.no_grad():
            return generator(torch.from_numpy(source), None if noise is None else torch.from_numpy(noise)).numpy()

    def jobs(self, size):
        _, source, noise = self.inputs(size)
        label = f"{self.name}-{size[0]}x{size[1]}"
        np.save(f"{label}.npy", source)
        if noise is not None:
            np.save(f"{label}-noise.npy", noise)
        return [{"name": f"{label}-{kind}", "model": f"{self.name}.{kind}.onnx", "source": f"{label}.npy",
                 "noise": None if noise is None else f"{label}-noise.npy"} for kind in self.kinds]


def check_near(tap, label, found, expected):
    same = found.shape == expected.shape
    error = float(np.abs(found - expected).max()) if same else float("nan")
    tap.check(same and error <= TOLERANCE, label, f"largest difference {error:.1e}" if same else f"{found.shape}")


def check_torch(tap, modules, model, size):
    """Returns the PyTorch output, the reference for ONNX; without noise it must equal Celforge's."""
    expected = model.torch(modules, size)
    if not model.noise:
        check_near(tap, f"{model.name}, {size[0]}x{size[1]}: PyTorch equals Celforge", expected, model.celforge(size))
    return expected


def check_plain(tap, modules, model):
    support.celforge("export", "--checkpoint", model.run, "--format", "safetensors", "--plain-weights", "plain.safetensors")
    size = model.sizes[0]
    plain = model.torch(modules, size, "plain.safetensors")
    check_near(tap, "--plain-weights: PyTorch equals Celforge", plain, model.celforge(size, "plain"))
    tap.check(np.abs(plain - model.torch(modules, size)).max() > 1e-3, "plain and EMA weights differ")
    tap.check(metadata("plain.safetensors")["celforge.weights"] == "plain", "the metadata name the plain weights")


def pytorch_name(name):
    """docs/export.md's name of a tensor of a model file: blocks.3.conv1.norm.weight for block3.conv1.norm.gain."""
    name = re.sub(r"\bblock(\d+)\.", r"blocks.\1.", name)
    name = re.sub(r"\brefine(\d+)\.", r"refinements.\1.", name)
    return re.sub(r"norm\.gain$", "norm.weight", name)


def check_model_file(tap, model, package):
    """PyTorch reads the model file: the exported weights, rounded to half precision by PyTorch, in Celforge's layout."""
    path, again = f"{model.name}.model.safetensors", f"{model.name}.again.safetensors"
    card = ["--look", "ink and caf\u00e9", "--licence", "CC0-1.0", "--trained-on", "clips", "--height", "32", "--name", "comic"]
    support.celforge("export", "--checkpoint", model.run, "--format", "model", path, *card)
    support.celforge("export", "--model", path, "--format", "safetensors", again)
    exported = {name: torch.from_numpy(array.copy()) for name, array in read_safetensors(f"{model.name}.safetensors").items()}
    with package.safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    tap.check(all(tensor.dtype == torch.float16 for tensor in tensors.values()), f"{model.name}: a model file holds F16")
    found = {pytorch_name(name): (tensor.permute(0, 4, 1, 2, 3) if tensor.dim() == 5 else tensor)
             for name, tensor in tensors.items()}
    same = found.keys() == exported.keys() and all(
        torch.equal(found[name].contiguous().view(torch.int16), exported[name].to(torch.float16).view(torch.int16)) for name in found)
    tap.check(same, f"{model.name}: names, layout and rounding of a model file are those of PyTorch")
    loaded = read_safetensors(again)
    tap.check(all(np.array_equal(loaded[name], found[name].float().numpy()) for name in found),
              f"{model.name}: Celforge loads exactly the numbers of the file")
    wanted = {"format": "celforge-model", "celforge.format_version": "1", "card.name": "comic", "card.look": "ink and caf\u00e9",
              "card.licence": "CC0-1.0", "card.height": "32"}
    network = {key: value for key, value in metadata(f"{model.name}.safetensors").items() if key.startswith("celforge.")}
    tap.check(wanted.items() <= about.items() and network.items() <= about.items(), f"{model.name}: the metadata of a model file")


def check_model_files(tap, models):
    folder = packages.fetch("safetensors-0.4.5", ["safetensors==0.4.5"], "--no-deps")
    if not folder:
        tap.skip("model files", "pip cannot fetch safetensors 0.4.5")
        return
    sys.path.insert(0, folder)
    import safetensors  # noqa: E402
    for model in models:
        check_model_file(tap, model, safetensors)


def check_facts(tap, facts):
    """The metadata, inputs and outputs of the ONNX models."""
    clip, stream = facts["rms-37x46-clip"], facts["rms-37x46-stream"]
    tap.check(clip["ir_version"] == 8 and clip["domains"] == [["", 17]], "IR version 8, operator set 17 alone")
    tap.check(clip["inputs"] == {"source": ["batch", 3, "frames", "height", "width"]}, "clips have dynamic axes", str(clip["inputs"]))
    states = [name for name in stream["inputs"] if name.startswith("state.")]
    tap.check(states == ["state.stem", "state.blocks.0.conv1", "state.blocks.1.conv1"], "one state input per temporal layer")
    tap.check(list(stream["outputs"]) == ["output"] + ["next" + name[5:] for name in states], "one state output per temporal layer")
    tap.check(stream["inputs"]["state.blocks.0.conv1"] == ["batch", 32, 2, "ceil(height/4)", "ceil(width/4)"], "the shape of a state")
    recurrent = facts["recurrent-30x37-stream"]["inputs"]
    tap.check(recurrent.get("state.gru") == ["batch", 32, 1, "ceil(height/4)", "ceil(width/4)"] and len(recurrent) == 2,
              "a recurrent model has one state", str(recurrent))
    still = facts["still-33x40-stream"]["inputs"]
    tap.check(list(still) == ["source"], "a model without temporal layers has no state")
    published = facts["published-24x32-stream"]
    tap.check(list(published["inputs"]) == ["source"] and "ConvTranspose" in published["operators"], "pix2pixhd has no state")
    large = facts["large-21x32-clip"]
    tap.check(large["outputs"]["output"][3:] == ["2*height", "2*width"], "an upscaling model has outputs of twice the size", str(large["outputs"]))
    wanted = {"celforge.step": "4", "celforge.scale": "2", "celforge.source_channels": "6", "celforge.model.norm": "none",
              "celforge.model.channels": "8", "celforge.model.temporal": "conv3d", "celforge.weights": "running average"}
    found = large["properties"]
    tap.check(wanted.items() <= found.items(), "properties describe the model", str(found))


def check_refusals(tap, model):
    export = [os.path.join(support.BUILD, "celforge"), "export", "--checkpoint"]
    weights = os.path.join(model.run, "checkpoints/step-00000004/generator.safetensors")
    for label, code, message, arguments in (
        ("an unknown format", 64, '--format: unknown format "tflite"; allowed: onnx, safetensors, model', [model.run, "--format", "tflite", "out"]),
        ("--stream with safetensors", 64, "--stream", [model.run, "--format", "safetensors", "--stream", "out"]),
        ("no format", 64, "--format", [model.run, "out"]),
        ("a recurrent model without --stream", 64, "add --stream", ["recurrent", "--format", "onnx", "out"]),
        ("a missing run", 74, "no-such-run", ["no-such-run", "--format", "onnx", "out"]),
        ("an output in a missing folder", 74, "no/such/out", [model.run, "--format", "onnx", "no/such/out"]),
        ("an output that is a folder", 74, "clips", [model.run, "--format", "safetensors", "clips"]),
        ("an output over a file of the checkpoint", 64, "is a file of the checkpoint", [model.run, "--format", "safetensors", weights]),
    ):
        done = subprocess.run(export + arguments, capture_output=True, text=True, timeout=60, check=False)
        good = done.returncode == code and message in done.stderr and not os.path.exists("out")
        tap.check(good, f"rejected: {label}", "" if good else f"{done.returncode}: {done.stderr}")
    tap.check(not [name for name in os.listdir(".") if name.endswith(".tmp")], "no temporary files are left")


def main():
    torch.set_num_threads(1)
    tap = support.Tap()
    modules = documented_modules()
    with support.scratch() as root:
        os.chdir(root)
        support.synth("clips", 2, 2, "32x32")
        stacked_dataset()
        models = [Exported(name) for name in MODELS]
        expected, jobs = {}, []
        for model in models:
            for size in model.sizes:
                expected[f"{model.name}-{size[0]}x{size[1]}"] = check_torch(tap, modules, model, size)
                jobs += model.jobs(size)
        check_plain(tap, modules, models[0])
        check_model_files(tap, models)
        check_refusals(tap, models[0])
        onnx = packages.fetch(*packages.ONNX)
        if onnx:
            results = run_onnx(onnx, jobs)
            for name, (output, _) in results.items():
                check_near(tap, f"{name}: ONNX Runtime equals PyTorch", output, expected[name.rpartition("-")[0]])
            check_facts(tap, {name: facts for name, (_, facts) in results.items()})
        else:
            tap.skip("ONNX Runtime", "pip cannot fetch " + " ".join(packages.ONNX[1]))
        os.chdir(ROOT)
    tap.end()


if __name__ == "__main__":
    main()
