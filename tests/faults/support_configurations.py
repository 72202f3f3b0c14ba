"""Random configurations of tiny runs, drawn from one number, and what must hold for each: the same bytes on 1, 2 and 4 ranks
(comm.reduce: reproducible) and after a resume."""
import collections
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

RANKS = (1, 2, 4)
DRAWS = 40  # for one configuration, until the program accepts one

# --- Drawing ------------------------------------------------------------------------------------------------


def draw_train(draw):
    micro, steps = draw.choice((1, 1, 2)), draw.randint(3, 7)
    reduce = draw.choice(("reproducible",) * 4 + ("fast",))
    return {
        "run.seed": draw.randrange(1, 10**6),
        "train.steps": steps,
        "train.micro_batch": micro,
        "train.global_batch": micro * 4 * draw.choice((1, 1, 2)),
        "train.precision": draw.choice(("bf16", "bf16", "f32")),
        "train.recompute": draw.random() < 0.3,
        "comm.reduce": reduce,
        "comm.gradients": draw.choice(("f32", "bf16")) if reduce == "fast" else "f32",
        "comm.bucket_mib": draw.choice((0.005, 0.02, 4)),
        "comm.overlap": draw.random() < 0.7,
        "guard.window": draw.choice((0, 4, 128)),
        "guard.max_deviations": draw.choice((1, 2, 8)),
        "metrics.every": draw.choice((1, 1, 2)),
        "metrics.tensorboard": draw.random() < 0.2,
        "samples.every": draw.choice((0, 0, 0, 3)),
        "samples.clips": draw.randint(1, 2),
        "checkpoint.every": draw.randrange(1, steps),
        "checkpoint.keep": 16,
    }


def draw_data(draw, unpaired):
    settings = {
        "data.path": draw.choice(("square", "wide")),
        "data.frames": draw.choice((0, 0, 2, 3)),
        "data.flip": draw.random() < 0.7,
        "data.threads": draw.randint(1, 2),
        "data.prefetch": draw.randint(1, 4),
    }
    crop = draw.choice((None, None, (32, 32), (24, 28)))
    if crop:
        settings.update({"data.crop_height": crop[0], "data.crop_width": crop[1]})
    if unpaired:
        settings["data.target_path"] = settings["data.path"] + "-targets"
    return settings


def draw_generator(draw):
    settings = {
        "model.channels": draw.choice((4, 8, 16)),
        "model.blocks": draw.randint(0, 2),
        "model.norm": draw.choice(("rms", "rms", "none", "instance", "group")),
        "model.noise_channels": draw.choice((0, 0, 1)),
    }
    if draw.random() < 0.12:
        return {**settings, "model.generator": "pix2pixhd", "model.temporal": "none", "model.channels": 4,
                "model.downsamplings": draw.randint(1, 2), "model.local_enhancers": draw.randint(0, 1)}
    return {**settings, "model.temporal": draw.choice(("none", "conv3d", "convgru", "convgru")),
            "model.refinements": draw.choice((0, 0, 1)), "model.smooth_base": draw.random() < 0.2,
            "model.tones": draw.choice((0, 0, 0, 4))}


def draw_discriminators(draw, unpaired):
    return {
        "model.image_scales": draw.choice((0, 1, 1, 2)),
        "model.image_channels": draw.choice((4, 8)),
        "model.image_layers": draw.randint(1, 2),
        "model.video": draw.random() < 0.7,
        "model.video_channels": 4,
        "model.video_layers": draw.randint(1, 2),
        "model.discriminator_norm": draw.choice(("none", "rms", "instance", "group")),
        "model.conditional": not unpaired and draw.random() < 0.5,
        "model.grey_view": draw.random() < 0.25,
        "model.smooth_view": draw.random() < 0.15,
        "model.spectral_norm": draw.random() < 0.4,
    }


def some(draw, share, *weights):
    """One of the weights with this probability, else 0."""
    return draw.choice(weights) if draw.random() < share else 0


def draw_losses(draw, unpaired):
    settings = {
        "loss.adversarial": draw.choice(("bce", "lsgan", "hinge", "wgan-gp")),
        "loss.adversarial_weight": draw.choice((0.1, 1) if unpaired else (0, 0.1, 1, 1)),
        "loss.l1": 0 if unpaired else some(draw, 0.8, 1, 10),
        "loss.temporal": 0 if unpaired else some(draw, 0.5, 5),
        "loss.gradient": 0 if unpaired else some(draw, 0.2, 2),
        "loss.feature_matching": 0 if unpaired else some(draw, 0.3, 1),
        "loss.total_variation": some(draw, 0.2, 0.1),
        "loss.patch_nce": some(draw, 0.5 if unpaired else 0.1, 1),
        "loss.patch_nce_flip": draw.random() < 0.5,
        "loss.color": some(draw, 0.3, 4),
        "loss.identity": some(draw, 0.3, 2),
        "loss.edge_negatives": some(draw, 0.3, 0.5),
        "loss.motion_consistency": some(draw, 0.2, 2),
        "loss.flow_consistency": some(draw, 0.2, 2),
        "loss.gradient_penalty": draw.choice((0, 1, 10)),
        "loss.r1": some(draw, 0.4, 0.1, 1),
        "loss.r1_interval": draw.randint(1, 3),
        "augment.mode": draw.choice(("none", "none", "fixed", "adaptive")),
        "augment.probability": draw.choice((0.3, 1)),
        "augment.target": draw.choice((-0.3, 0.3)),
        "augment.ramp_clips": 50,
    }
    if draw.random() < 0.06:  # VGG19 is slow
        for name in ("content", "style") if unpaired else ("perceptual",):
            settings[f"loss.{name}"] = 1
    return settings


def draw_optimizer(draw, paired_l1):
    return {
        "optim.generator_lr": draw.choice((2e-4, 2e-3)),
        "optim.discriminator_lr": draw.choice((2e-4, 1e-3)),
        "optim.beta1": draw.choice((0, 0.5, 0.9)),
        "optim.beta2": draw.choice((0.9, 0.999)),
        "optim.weight_decay": some(draw, 0.2, 0.01),
        "optim.clip": some(draw, 0.5, 0.5, 5),
        "optim.ema": draw.choice((0, 0.9, 0.999)),
        "optim.lr_schedule": draw.choice(("constant", "linear", "cosine")),
        "optim.lr_decay_start": draw.choice((0, 0.5)),
        "optim.lr_min": draw.choice((0, 0.1)),
        "optim.lr_warmup_steps": draw.choice((0, 2)),
        "optim.pretrain_steps": draw.randint(0, 2) if paired_l1 else 0,
        "optim.adversarial_ramp_steps": draw.choice((0, 3)),
    }


def draw_settings(draw):
    """Settings over those of runs.TINY, with the names of data sets instead of their folders."""
    unpaired = draw.random() < 0.35
    losses = draw_losses(draw, unpaired)
    return {**draw_train(draw), **draw_data(draw, unpaired), **draw_generator(draw), **draw_discriminators(draw, unpaired),
            **losses, **draw_optimizer(draw, losses["loss.l1"] > 0)}


def summary(settings):
    """The part of the settings that names a kind of run, as a line."""
    words = [settings["train.precision"], settings.get("model.generator", settings["model.temporal"]), settings["comm.reduce"],
             f"{settings['train.global_batch']}/{settings['train.micro_batch']}",
             settings["loss.adversarial"] if settings["loss.adversarial_weight"] else "no discriminators"]
    words += ["unpaired"] if "data.target_path" in settings else []
    words += [name.split(".")[1] for name, value in settings.items() if name.startswith("loss.") and value and name.split(".")[1] in (
        "patch_nce", "edge_negatives", "feature_matching", "r1", "perceptual", "content", "identity", "flow_consistency",
        "motion_consistency")]
    words += [settings["augment.mode"]] if settings["augment.mode"] != "none" else []
    words += [word for name, word in (("train.recompute", "recompute"), ("model.spectral_norm", "spectral_norm"),
                                      ("optim.ema", "ema"), ("optim.clip", "clip")) if settings[name]]
    return " ".join(words)


# --- Differences --------------------------------------------------------------------------------------------


def tensors(content):
    """{name: bytes} of a safetensors file."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    return {name: content[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]]
            for name, entry in header.items() if name != "__metadata__"}


def describe(what, left, right):
    """Describes how two results of last_checkpoint() differ; [] if they do not."""
    files = runs.difference(left, right)
    if not files:
        return []
    names = []
    for file in files.split(", "):
        if file.endswith(".safetensors") and file in left and file in right:
            a, b = tensors(left[file]), tensors(right[file])
            names += [name for name in a if a[name] != b.get(name)]
    return [f"{what}: different bytes in {files}; {len(names)} tensors, such as {', '.join(names[:4])}"]


# --- One configuration --------------------------------------------------------------------------------------


class Refused(Exception):
    """The program does not accept the configuration (exit code 64)."""


class World:
    """The data that all configurations share."""

    def __init__(self, folder):
        self.folder = folder
        self.paths = {}
        for name, size, seed, more in (("square", "32x32", 1, []), ("square-targets", "32x32", 2, []),
                                       ("wide", "48x32", 3, ["--deflate", "--clips-per-shard", "5"]),
                                       ("wide-targets", "48x32", 4, [])):
            self.paths[name] = os.path.join(folder, name)
            subprocess.run([runs.CELFORGE, "synth", self.paths[name], "--clips", "12", "--frames", "4", "--size", size, "--threads",
                            "1", "--seed", str(seed), *more], check=True, capture_output=True, timeout=runs.LIMIT, env=runs.ENVIRONMENT)
        self.vgg, self.lock = None, threading.Lock()

    def vgg_weights(self):
        with self.lock:
            if self.vgg is None:
                self.vgg = runs.write_perceptual_weights(os.path.join(self.folder, "vgg19.safetensors"), 1)
            return self.vgg

    def run(self, folder, settings):
        settings = {**settings, "data.path": self.paths[settings["data.path"]]}
        if "data.target_path" in settings:
            settings["data.target_path"] = self.paths[settings["data.target_path"]]
        if any(settings.get(f"loss.{name}") for name in ("perceptual", "content", "style")):
            settings["loss.perceptual_weights"] = self.vgg_weights()
        return runs.Run(folder, settings["data.path"], settings)


def train(world, folder, settings, ranks, resume):
    run = world.run(folder, settings)
    code = run.train(ranks, resume)
    if code == 64 and resume == "none" and ranks == 1:
        raise Refused(run.log_text().strip().splitlines()[-1].removeprefix("celforge: ").rpartition(run.config + ":")[2])
    assert code == 0, f"{ranks} ranks, --resume {resume}: exit code {code}\n{run.log_text()}"
    return run


def resumed(world, run, settings, ranks):
    """The run, resumed from its first checkpoint by as many ranks."""
    folder = run.folder + "-resumed"
    shutil.copytree(run.folder, folder)
    for step in run.checkpoints()[1:]:
        shutil.rmtree(os.path.join(folder, "checkpoints", f"step-{step:08d}"))
    return train(world, folder, settings, ranks, "auto")


def check(world, folder, settings, draw):
    """Trains a configuration on each number of ranks, and resumed. Returns what was wrong."""
    reproducible = settings["comm.reduce"] == "reproducible"
    wrong, done = [], {}
    for ranks in RANKS:
        done[ranks] = train(world, os.path.join(folder, f"ranks-{ranks}"), settings, ranks, "none")
        if reproducible and ranks > 1:
            wrong += describe(f"{ranks} ranks instead of 1", done[1].last_checkpoint(), done[ranks].last_checkpoint())
    first = draw.choice(RANKS)
    then = draw.choice(RANKS) if reproducible else first
    step, again = done[first].checkpoints()[0], resumed(world, done[first], settings, then)
    what = f"{first} ranks, resumed at step {step} by {then}"
    if f"at step {step}" not in again.log_text():
        wrong.append(f"{what}: did not resume there\n{again.log_text()}")
    wrong += describe(what, done[first].last_checkpoint(), again.last_checkpoint())
    if first == then and done[first].metrics() != again.metrics():
        wrong.append(f"{what}: other metrics")
    return wrong


Result = collections.namedtuple("Result", "settings wrong refused")


def one(world, seed, number):
    """Draws configuration `number` of a seed and checks it."""
    draw, refused = random.Random(f"{seed} {number}"), []
    for _ in range(DRAWS):
        settings = draw_settings(draw)
        folder = os.path.join(world.folder, f"run-{number}")
        os.makedirs(folder)
        try:
            return Result(settings, check(world, folder, settings, draw), refused)
        except Refused as reason:
            refused.append(str(reason))
        except AssertionError as error:
            return Result(settings, [str(error)], refused)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Result(settings, [f"{DRAWS} draws refused, the last one with: {refused[-1]}"], refused)
