"""What Celforge's training step takes beside its networks, for PyTorch: the clips of each step, and the random numbers of
trainer/gan/step_inputs.h, from their definitions."""
import glob
import os
import sys

import h5py
import numpy as np
import torch

import support
from celforge_torch import Inputs, augmentation_draws, normalize, upsample

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import reference_random  # noqa: E402


class Clips:
    """The clips of a run's steps, with what the loader computes from them (its own tests check that)."""

    def __init__(self, config, steps):
        self.config, self.batch, self.steps = config, config.train.global_batch, None
        self.unpaired = bool(config.data.target_path)
        if self.unpaired:
            self.read_unpaired(steps)
        else:
            with h5py.File(glob.glob(os.path.join(config.data.path, "shard-*.h5"))[0], "r") as file:
                self.source, self.target = file["clips/source"][:], file["clips/target"][:]

    def read_unpaired(self, steps):
        data = self.config.data
        with h5py.File(glob.glob(os.path.join(data.path, "shard-*.h5"))[0], "r") as file:
            t, h, w, _ = file["clips/source"].shape[1:]
        names = (data.path, data.target_path, self.config.run.seed, self.batch, 0, steps)
        content = support.run(os.path.join(support.BUILD, "tests/oracle/samples"), *map(str, names))
        frames, flows = (self.batch, t, h, w, 3), (self.batch, t - 1, h, w)
        step = np.dtype([("source", "u1", frames), ("target", "u1", frames), ("smoothed", "u1", frames),
                         ("flow", "<f4", (*flows, 2)), ("flow_mask", "<f4", (*flows, 1))])
        self.steps = np.frombuffer(content, step)
        assert len(self.steps) == steps, f"{len(content)} bytes of samples"

    def channels(self):
        return (self.steps["source"] if self.unpaired else self.source).shape[-1]

    def of_step(self, number, dtype):
        """Normalised sources and targets, and what the loader adds to them."""
        if not self.unpaired:
            target = normalize(self.target, dtype)
            return upsample(normalize(self.source, dtype), *target.shape[3:]), target, {}
        step = self.steps[number]
        extra = {"smoothed": normalize(step["smoothed"].copy(), dtype), "flow": torch.tensor(step["flow"]),
                 "flow_mask": torch.tensor(step["flow_mask"])}
        return normalize(step["source"].copy(), dtype), normalize(step["target"].copy(), dtype), extra

    def order(self, number):
        """The place of each of a step's samples in its batch. Every step is an epoch."""
        if self.unpaired:
            return list(range(self.batch))
        return [reference_random.order_clip(self.config.run.seed, i, self.batch, number) for i in range(self.batch)]


class Draws:
    """The random numbers of trainer/gan/step_inputs.c for a step on frames of one size."""

    def __init__(self, config, clips, number, shape):
        self.config, (self.height, self.width) = config, shape[3:]
        self.frames, self.samples = shape[2], {}
        for i, place in enumerate(clips.order(number)):
            self.samples[place] = number * clips.batch + i

    def stack(self, purpose, draw):
        """draw(stream) of each clip, in the order of the batch."""
        streams = (reference_random.Stream(self.config.run.seed, purpose, self.samples[i]) for i in range(len(self.samples)))
        return np.stack([draw(stream) for stream in streams])

    def augmentation(self, probability):
        uniforms = self.stack(reference_random.DIFF_AUGMENT, lambda s: np.array([s.uniform() for _ in range(24)]).reshape(3, 8))
        probability = float(np.float32(probability))
        return [augmentation_draws(uniforms[:, part], probability, self.height, self.width) for part in range(3)]

    def grey(self):
        def weights(stream):
            values = np.array((0.299, 0.587, 0.114)) + [0.1 * (2 * stream.uniform() - 1) for _ in range(3)]
            return values / values.sum()

        values = self.stack(reference_random.GREY, lambda s: np.stack([weights(s) for _ in range(3)]))
        return [torch.tensor(values[:, part], dtype=torch.float32) for part in range(3)]

    def motion(self):
        """Four by four cells between normal numbers, smoothly interpolated, plus one shift: up to 1/24 of the smaller side,
        with a deviation of 1/48 of it."""
        side = min(self.height, self.width)

        def weights(count):
            """Each coordinate's weights of five knots [count, 5]."""
            place = np.arange(count) * 4 / count
            cell, part = place.astype(int), place % 1
            blend = part * part * (3 - 2 * part)
            matrix = np.zeros((count, 5))
            matrix[np.arange(count), cell] = 1 - blend
            matrix[np.arange(count), cell + 1] = blend
            return matrix

        def field(stream):
            shift = np.array([(2 * stream.uniform() - 1) * side / 24 for _ in range(2)])
            knots = np.array(stream.normals(50)).reshape(5, 5, 2) * side / 48
            return shift + np.einsum("yr,xc,rci->yxi", weights(self.height), weights(self.width), knots)

        return torch.tensor(self.stack(reference_random.MOTION, field)[:, None], dtype=torch.float32)

    def motion_noise(self):
        def noise(stream):
            deviation = 0.02 * stream.uniform()
            return np.array(stream.normals(self.height * self.width)).reshape(self.height, self.width) * deviation

        return torch.tensor(self.stack(reference_random.MOTION_NOISE, noise)[:, None, None], dtype=torch.float32)

    def mirror(self):
        return torch.tensor(self.stack(reference_random.MIRROR, lambda s: np.int64(s.uniform() < 0.5)))

    def noise(self, channels):
        shape = (self.frames, self.height, self.width, channels)
        values = self.stack(reference_random.NOISE, lambda s: np.array(s.normals(int(np.prod(shape)))).reshape(shape))
        return torch.tensor(values, dtype=torch.float32).permute(0, 4, 1, 2, 3)

    def interpolation(self):
        return torch.tensor(self.stack(reference_random.INTERPOLATION, lambda s: np.float32(s.uniform())))


def draw_inputs(config, clips, number, shape, metrics):
    """The Inputs of a step on targets of this shape, without what the loader adds to the clips. `metrics` are those of the
    step."""
    model, loss = config.model, config.loss
    draws, moves = Draws(config, clips, number, shape), loss.motion_consistency > 0
    return Inputs(
        noise=draws.noise(model.noise_channels) if model.noise_channels > 0 else None,
        interpolation=draws.interpolation() if loss.adversarial == "wgan-gp" else None,
        augmentation=draws.augmentation(metrics["augment/probability"]) if config.augment.mode != "none" else None,
        grey=draws.grey() if model.grey_view else None,
        motion=draws.motion() if moves else None,
        motion_noise=draws.motion_noise() if moves else None,
        mirror=draws.mirror() if loss.patch_nce > 0 and loss.patch_nce_flip else None,
    )
