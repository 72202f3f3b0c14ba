"""Celforge's networks, losses and training step as plain PyTorch.

Written from the definitions in trainer/gan/networks.h, trainer/gan/losses.h, trainer/gan/gan.h and
engine/graph/graph.h. The tests compare the engine with it, and the benchmark runs it beside Celforge. Clips are
[N, C, T, H, W] here; weights in checkpoints are [O, T, H, W, I].
"""
import functools
import json
import math
import os
import re
import struct
from types import SimpleNamespace
from typing import NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm, spectral_norm

NORM_EPSILON = 1e-5
LEAKY_SLOPE = 0.2
GROUP_CHANNELS = 16

# --- Files ----------------------------------------------------------------------------------------

SAFETENSORS_TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1"}


def read_safetensors(path):
    """Name -> array. Rejects a file unless every byte is accounted for."""

    def unique(pairs):
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise ValueError(f"{path}: duplicate name")
        return dict(pairs)

    with open(path, "rb") as file:
        content = file.read()
    if len(content) < 8:
        raise ValueError(f"{path}: {len(content)} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", content[:8])
    if length % 8 != 0 or 8 + length > len(content):
        raise ValueError(f"{path}: invalid header length {length}")
    header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=unique)
    header.pop("__metadata__", None)
    data, arrays, expected = content[8 + length :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        kind = np.dtype(SAFETENSORS_TYPES[entry["dtype"]])
        if begin != expected or end - begin != math.prod(entry["shape"]) * kind.itemsize:
            raise ValueError(f"{path}: {name} is at {begin}..{end}, expected at {expected}")
        arrays[name] = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
        expected = end
    if expected != len(data):
        raise ValueError(f"{path}: {len(data) - expected} bytes after the last array")
    return arrays


def write_safetensors(path, arrays):
    """Contiguous f32 arrays by name."""
    header, offset = {}, 0
    for name, array in arrays.items():
        size = array.size * 4
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").tobytes())


def parse_config(text):
    """A complete config (config.yaml of a run, `celforge config FILE`) as nested namespaces."""

    def value(leaf):
        # YAML 1.1 reads 2e-4 as a string.
        if isinstance(leaf, str) and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", leaf):
            return float(leaf)
        return leaf

    sections = yaml.safe_load(text)
    return SimpleNamespace(
        **{
            section: SimpleNamespace(**{key: value(leaf) for key, leaf in keys.items()})
            for section, keys in sections.items()
        }
    )


# --- Layers ---------------------------------------------------------------------------------------
# A network with 3D convolutions works on clips [N, C, T, H, W], one without on frames [N*T, C, H, W].


def to_frames(clip):
    return clip.transpose(1, 2).flatten(0, 1)


def to_clip(frames, length):
    return frames.unflatten(0, (-1, length)).transpose(1, 2)


def per_frame(function, x):
    if x.dim() == 4:
        return function(x)
    return to_clip(function(to_frames(x)), x.shape[2])


class Norm(nn.Module):
    def __init__(self, kind, channels, affine=True):
        super().__init__()
        self.kind = kind
        self.groups = channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1
        self.gain = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x):
        if self.kind == "rms":
            shape = (1, -1) + (1,) * (x.dim() - 2)
            scale = torch.rsqrt(x.square().mean(1, keepdim=True) + NORM_EPSILON)
            return (x * scale * self.gain.view(shape) + self.bias.view(shape)).to(x.dtype)
        if self.kind == "instance":
            return self.instance(x)
        group = lambda frames: F.group_norm(frames, self.groups, self.gain, self.bias, NORM_EPSILON)
        return per_frame(group, x)

    def instance(self, x):
        # Like F.instance_norm: a batch norm in which every plane, of every frame too, is a channel.
        def spread(vector):
            return None if vector is None else vector.view(1, -1, 1).expand(x.shape[0], -1, x[0, 0, ..., 0, 0].numel()).reshape(-1)

        planes = x.reshape(1, -1, *x.shape[-2:])
        y = F.batch_norm(planes, None, None, spread(self.gain), spread(self.bias), True, 0, NORM_EPSILON)
        return y.view(x.shape)


class Convolution(nn.Module):
    """A convolution with a bias, or with a norm instead."""

    def __init__(self, inputs, outputs, kernel, stride=1, norm="none", mode="reflect", centred=False, scale=1.0, dims=3, bias=True,
                 spectral=False):
        super().__init__()
        kernel_time, kernel_size = kernel
        self.dims, self.stride, self.mode, self.centred = dims, stride, mode, centred
        self.time, self.space = kernel_time, kernel_size
        size = (kernel_time, kernel_size, kernel_size)[3 - dims :]
        deviation = scale * math.sqrt(2 / (inputs * math.prod(size)))
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *size) * deviation)
        self.bias = nn.Parameter(torch.zeros(outputs)) if norm == "none" and bias else None
        self.norm = None if norm == "none" else Norm(norm, outputs)
        if spectral:
            spectral_norm(self)

    def iterate(self):
        """Runs one power iteration of spectral norm, if attached."""
        for hook in self._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                with torch.no_grad():
                    hook.compute_weight(self, do_power_iteration=True)

    def forward(self, x):
        half = (self.space - 1) // 2
        padding = 0
        if self.mode == "reflect":
            sides = (half,) * 4 + (0, 0) * (self.dims - 2)
            x = F.pad(x, sides, mode="reflect") if half else x
            if self.time > 1:  # causal
                x = F.pad(x, (0, 0, 0, 0, self.time - 1, 0))
        else:
            padding = (self.time // 2, half, half)[3 - self.dims :]
        stride = (1, self.stride, self.stride)[3 - self.dims :]
        convolution = F.conv3d if self.dims == 3 else F.conv2d
        y = convolution(x, self.weight, self.bias, stride, padding)
        return self.norm(y) if self.norm else y


class Residual(nn.Module):
    def __init__(self, channels, kernel_time, norm, dims):
        super().__init__()
        self.conv1 = Convolution(channels, channels, (kernel_time, 3), norm=norm, dims=dims)
        self.conv2 = Convolution(channels, channels, (1, 3), norm=norm, dims=dims)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(x))) + x


class ConvGRU(nn.Module):
    """A convolutional GRU over the frames of a clip; the reset gate is applied after its convolution."""

    def __init__(self, channels, dims):
        super().__init__()
        self.input = Convolution(channels, 3 * channels, (1, 3), dims=dims)
        self.past = Convolution(channels, 3 * channels, (1, 3), dims=dims, bias=False)

    def forward(self, x, length):
        inputs = self.input(x)
        inputs = inputs.view(-1, length, *inputs.shape[1:])
        state, states = torch.zeros_like(x.view(-1, length, *x.shape[1:])[:, 0]), []
        for frame in inputs.unbind(1):
            z, r, n = frame.chunk(3, 1)
            state_z, state_r, state_n = self.past(state).chunk(3, 1)
            z, r = torch.sigmoid(z + state_z), torch.sigmoid(r + state_r)
            n = torch.tanh(n + r * state_n)
            state = (1 - z) * n + z * state
            states.append(state)
        return torch.stack(states, 1).flatten(0, 1)


class Generator(nn.Module):
    def __init__(self, model, channels):
        super().__init__()
        kernel_time = 3 if model.temporal == "conv3d" else 1
        dims = 3 if model.temporal == "conv3d" else 2
        c, layer = model.channels, dict(norm=model.norm, dims=dims)
        self.dims, self.smooth_base = dims, model.smooth_base
        self.stem = Convolution(self.inputs(model, channels), c, (kernel_time, 7), **layer)
        self.down1 = Convolution(c, 2 * c, (1, 3), stride=2, **layer)
        self.down2 = Convolution(2 * c, 4 * c, (1, 3), stride=2, **layer)
        self.gru = ConvGRU(4 * c, dims) if model.temporal == "convgru" else None
        self.blocks = [Residual(4 * c, kernel_time, model.norm, dims) for _ in range(model.blocks)]
        for i, block in enumerate(self.blocks):
            self.add_module(f"block{i}", block)
        self.up1 = Convolution(4 * c, 2 * c, (1, 3), **layer)
        self.up2 = Convolution(2 * c, c, (1, 3), **layer)
        self.refinements = [Residual(c, 1, model.norm, dims) for _ in range(model.refinements)]
        for i, block in enumerate(self.refinements):
            self.add_module(f"refine{i}", block)
        self.head = Convolution(c, 3, (1, 3 if self.refinements else 7), scale=0.1, dims=dims)

    @staticmethod
    def inputs(model, channels):
        """Channels of the network's input."""
        return channels + (3 if model.smooth_base else 0) + model.noise_channels

    def base(self, source):
        """The frames that the output is added to."""
        return per_frame(lambda frames: guided_filter(frames, 4, 0.02), source[:, :3]) if self.smooth_base else source[:, :3]

    def encode(self, source, noise=None):
        """The features that PatchNCE compares: input, stem, both downsamplings, the middle of the residual blocks."""
        length = source.shape[2]
        parts = [source] + [self.base(source)] * self.smooth_base + [noise] * (noise is not None)
        x = torch.cat(parts, 1) if len(parts) > 1 else source
        x = x if self.dims == 3 else to_frames(x)
        down, right = -source.shape[3] % 4, -source.shape[4] % 4
        if down or right:
            x = F.pad(x, (0, right, 0, down) + (0, 0) * (self.dims - 2), mode="reflect")
        stem = F.relu(self.stem(x))
        half = F.relu(self.down1(stem))
        y = F.relu(self.down2(half))
        if self.gru is not None:
            y = y + self.gru(y, length)
        quarter = y
        for block in self.blocks[: len(self.blocks) // 2]:
            y = block(y)
        return x, stem, half, quarter, y

    def forward(self, source, noise=None):
        return self.decode(source, self.encode(source, noise))

    def decode(self, source, features):
        length, (_, stem, half, _, y) = source.shape[2], features
        for block in self.blocks[len(self.blocks) // 2 :]:
            y = block(y)
        for layer, skip in ((self.up1, half), (self.up2, stem)):
            y = F.relu(layer(F.interpolate(y, size=skip.shape[2:], mode="nearest"))) + skip
        for block in self.refinements:
            y = block(y)
        residual = self.head(y)[..., : source.shape[3], : source.shape[4]]
        residual = residual if self.dims == 3 else to_clip(residual, length)
        return residual + self.base(source)


# --- pix2pixHD --------------------------------------------------------------------------------------
# The layers of GlobalGenerator and LocalEnhancer in the authors' networks.py, under our names.


class ConvNorm(nn.Module):
    """A PyTorch convolution, with reflect padding if given, and its norm."""

    def __init__(self, layer, norm, reflect=0):
        super().__init__()
        self.layer, self.reflect = [layer], reflect  # in a list, so that PyTorch does not register it as a submodule
        self.weight, self.bias = layer.weight, layer.bias
        nn.init.normal_(self.weight, 0, 0.02)
        channels = layer.out_channels
        self.norm = None if norm == "none" else Norm(norm, channels, affine=norm != "instance")

    def forward(self, x):
        (layer,) = self.layer
        x = F.pad(x, (self.reflect,) * 4, mode="reflect") if self.reflect else x
        if isinstance(layer, nn.ConvTranspose2d):
            y = F.conv_transpose2d(x, self.weight, self.bias, layer.stride, layer.padding, layer.output_padding)
        else:
            y = F.conv2d(x, self.weight, self.bias, layer.stride, layer.padding)
        return self.norm(y) if self.norm else y


def pix2pixhd_layers(norm):
    """The kinds of layers: name -> function of input and output channels."""
    bias = norm == "none"
    return SimpleNamespace(
        stem=lambda i, o: ConvNorm(nn.Conv2d(i, o, 7, bias=bias), norm, 3),
        down=lambda i, o: ConvNorm(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=bias), norm),
        same=lambda i, o: ConvNorm(nn.Conv2d(i, o, 3, bias=bias), norm, 1),
        up=lambda i, o: ConvNorm(nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=1, bias=bias), norm),
        head=lambda i: ConvNorm(nn.Conv2d(i, 3, 7), "none", 3),
    )


class Pix2PixHDBlock(nn.Module):
    def __init__(self, channels, layers):
        super().__init__()
        self.conv1, self.conv2 = layers.same(channels, channels), layers.same(channels, channels)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class LocalEnhancer(nn.Module):
    def __init__(self, inputs, channels, layers):
        super().__init__()
        self.stem, self.down = layers.stem(inputs, channels // 2), layers.down(channels // 2, channels)
        for i in range(3):
            self.add_module(f"block{i}", Pix2PixHDBlock(channels, layers))
        self.up, self.head = layers.up(channels, channels // 2), layers.head(channels // 2)

    def forward(self, x, features):
        y = F.relu(self.down(F.relu(self.stem(x)))) + features
        for block in (self.block0, self.block1, self.block2):
            y = block(y)
        return torch.tanh(self.head(F.relu(self.up(y))))


class Pix2PixHD(nn.Module):
    def __init__(self, model, channels):
        super().__init__()
        layers, c, inputs = pix2pixhd_layers(model.norm), model.channels, channels + model.noise_channels
        self.downsamplings, self.blocks = model.downsamplings, model.blocks
        self.stem = layers.stem(inputs, c)
        for i in range(1, model.downsamplings + 1):
            self.add_module(f"down{i}", layers.down(c << (i - 1), c << i))
        for i in range(model.blocks):
            self.add_module(f"block{i}", Pix2PixHDBlock(c << model.downsamplings, layers))
        for i in range(model.downsamplings, 0, -1):
            self.add_module(f"up{model.downsamplings + 1 - i}", layers.up(c << i, c << (i - 1)))
        self.enhancer = LocalEnhancer(inputs, c, layers) if model.local_enhancers else None
        self.head = None if model.local_enhancers else layers.head(c)

    def features(self, x):
        x = F.relu(self.stem(x))
        for i in range(1, self.downsamplings + 1):
            x = F.relu(getattr(self, f"down{i}")(x))
        for i in range(self.blocks):
            x = getattr(self, f"block{i}")(x)
        for i in range(1, self.downsamplings + 1):
            x = F.relu(getattr(self, f"up{i}")(x))
        return x

    def forward(self, source, noise=None):
        x = to_frames(source if noise is None else torch.cat((source, noise), 1))
        height, width = x.shape[2:]
        multiple = 1 << (self.downsamplings + (self.enhancer is not None))
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect")
        if self.enhancer is None:
            y = torch.tanh(self.head(self.features(x)))
        else:
            half = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            y = self.enhancer(x, self.features(half))
        return to_clip(y[..., :height, :width], source.shape[2])


GENERATORS = {"celnet": Generator, "pix2pixhd": Pix2PixHD}


class PatchDiscriminator(nn.Module):
    def __init__(self, inputs, channels, layers, norm, kernel_time, spectral):
        super().__init__()
        self.layers = []
        for i in range(layers + 2):
            last = i == layers + 1
            outputs = 1 if last else channels << min(i, 3)
            layer = Convolution(
                inputs,
                outputs,
                (kernel_time, 4),
                stride=2 if i < layers else 1,
                norm=norm if 0 < i <= layers else "none",
                mode="zero",
                dims=3 if kernel_time > 1 else 2,
                spectral=spectral,
            )
            self.add_module(f"conv{i}", layer)
            self.layers.append(layer)
            inputs = outputs

    def forward(self, x):
        features = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), LEAKY_SLOPE)
            features.append(x)
        return self.layers[-1](x), features


class Discriminators(nn.Module):
    """Returns per head: logits with the batch first, features, the head's weight in a sum over heads."""

    def __init__(self, model, channels):
        super().__init__()
        self.scales, self.video = [], None
        norm, spectral = model.discriminator_norm, model.spectral_norm
        inputs = channels + 3 if model.conditional else 3

        def image(name, inputs):
            head = PatchDiscriminator(inputs, model.image_channels, model.image_layers, norm, 1, spectral)
            self.add_module(name, head)
            return head

        self.scales = [image(f"image{scale}", inputs) for scale in range(model.image_scales)]
        self.grey = image("grey", 1) if model.grey_view else None
        self.smooth = image("smooth", 3) if model.smooth_view else None
        if model.video:
            self.video = PatchDiscriminator(inputs, model.video_channels, model.video_layers, norm, 3, spectral)
        self.eval()  # so that spectral norm iterates in iterate() only, not at every call

    def iterate(self):
        for module in self.modules():
            if isinstance(module, Convolution):
                module.iterate()

    def forward(self, view):
        clips = view.candidate if view.source is None else torch.cat((view.source, view.candidate), 1)
        outputs, x = [], to_frames(clips)
        for scale, head in enumerate(self.scales):
            if scale > 0:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            outputs.append(head(x))
        if self.grey:
            outputs.append(self.grey(to_frames(grey_frames(view.candidate, view.grey))))
        if self.smooth:
            outputs.append(self.smooth(guided_filter(to_frames(view.candidate))))
        outputs = [(*output, 1 / len(outputs)) for output in outputs]
        if self.video:
            outputs.append((*self.video(clips), 1.0))
        return outputs


def grey_frames(clips, weights):
    """The channels' sum with a clip's three weights [N, 3]."""
    return (clips * weights.to(clips)[:, :, None, None, None]).sum(1, keepdim=True)


def guided_filter(x, radius=5, epsilon=0.2):
    """The guided filter of He, Sun, Tang (2013) with the frames as their own guide, algorithm 1."""

    def box(values):
        return F.avg_pool2d(values, 2 * radius + 1, 1, radius, count_include_pad=False)

    mean, correlation = box(x), box(x * x)
    variance = correlation - mean * mean
    a = variance / (variance + epsilon)
    b = mean - a * mean
    return box(a) * x + box(b)


# --- Augmentation ---------------------------------------------------------------------------------


class View(NamedTuple):
    """The input of the discriminators."""

    candidate: torch.Tensor
    source: Optional[torch.Tensor] = None  # None: not conditional
    grey: Optional[torch.Tensor] = None  # weights [N, 3] of the grey view


def join_views(views):
    return View(*(None if values[0] is None else torch.cat(values) for values in zip(*views)))


class Inputs(NamedTuple):
    """What a step needs beside its clips; None: not needed. Lists have an entry for each part of the discriminators' batch."""

    noise: Optional[torch.Tensor] = None  # of the generator, [N, C, T, H, W]
    interpolation: Optional[torch.Tensor] = None  # random points of the gradient penalty, [N]
    augmentation: Optional[list] = None  # draws [N, 9] of diff_augment
    grey: Optional[list] = None  # weights [N, 3]
    motion: Optional[torch.Tensor] = None  # synthetic motion [N, 1, H, W, 2] in pixels
    motion_noise: Optional[torch.Tensor] = None  # noise of the moved source, [N, 1, 1, H, W]
    smoothed: Optional[torch.Tensor] = None  # targets with smoothed edges, [N, 3, T, H, W]
    flow: Optional[torch.Tensor] = None  # optical flow of the source [N, T-1, H, W, 2]
    flow_mask: Optional[torch.Tensor] = None  # where it is reliable, [N, T-1, H, W, 1]


def translated(clip, dx, dy):
    """A clip [C, T, H, W] moved by whole pixels; zeros move in."""
    return F.pad(clip, (dx, -dx, dy, -dy))  # negative padding cuts


def diff_augment(clips, draws):
    """DiffAugment with the draws [N, 9] of trainer/gan/diff_augment.h."""
    draws = draws.to(clips)
    brightness, saturation, contrast = (draws[:, i, None, None, None, None] for i in range(3))
    x = clips + brightness
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * saturation + mean
    mean = x.mean((1, 2, 3, 4), keepdim=True)
    x = (x - mean) * contrast + mean
    x = torch.stack([translated(clip, int(draw[3]), int(draw[4])) for clip, draw in zip(x, draws)])
    rows, columns = torch.arange(x.shape[3], device=x.device), torch.arange(x.shape[4], device=x.device)
    inside_x = (columns[None] - draws[:, 5, None]).abs() < draws[:, 7, None]
    inside_y = (rows[None] - draws[:, 6, None]).abs() < draws[:, 8, None]
    return x.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None, None], 0)


def augmentation_draws(uniforms, probability, height, width):
    """The draws [N, 9] of diff_augment from eight uniform numbers each, [N, 8] f64."""
    u = torch.as_tensor(uniforms, dtype=torch.float64)
    unchanged = torch.tensor([0, 1, 1, 0, 0, 0, 0, -1, -1], dtype=torch.float64)
    farthest_x, farthest_y = (math.floor(side / 8 + 0.5) for side in (width, height))
    columns = [
        u[:, 1] * 2 - 1,
        u[:, 2] * 2,
        u[:, 3] + 0.5,
        torch.floor(u[:, 4] * (2 * farthest_x + 1)) - farthest_x,
        torch.floor(u[:, 5] * (2 * farthest_y + 1)) - farthest_y,
        u[:, 6] * width,
        u[:, 7] * height,
        torch.full_like(u[:, 0], width / 4),
        torch.full_like(u[:, 0], height / 4),
    ]
    return torch.where(u[:, :1] < probability, torch.stack(columns, 1), unchanged).float()


# --- Motion ---------------------------------------------------------------------------------------


def warp(clips, flow):
    """Backward warping of each frame of [N, C, T, H, W] along `flow` [N, T or 1, H, W, 2] in pixels."""
    n, _, t, h, w = clips.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([columns, rows], -1).to(clips) + flow.to(clips).expand(n, t, h, w, 2)
    grid = 2 * place / torch.tensor([max(w - 1, 1), max(h - 1, 1)]).to(clips) - 1  # from pixels to [-1, 1]
    moved = F.grid_sample(to_frames(clips), grid.flatten(0, 1), "bilinear", "border", align_corners=True)
    return to_clip(moved, t)


# --- Losses ---------------------------------------------------------------------------------------


def loss_temporal(output, target):
    return (output.diff(dim=2) - target.diff(dim=2)).abs().mean()


def loss_total_variation(output):
    return output.diff(dim=3).abs().mean() + output.diff(dim=4).abs().mean()


def patch_loss(kind, logits, real):
    """The mean loss of the discriminators' logits against one label."""
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
    if kind == "lsgan":
        return (logits - float(real)).square().mean() / 2
    if kind == "wgan-gp":
        return -logits.mean() if real else logits.mean()
    return F.relu(1 - logits if real else 1 + logits).mean()


def loss_discriminator(kind, outputs, edge_weight=0.0):
    """The batch is real, fake and, with a weight, targets with smoothed edges, which count as fakes."""
    total = 0
    for logits, _, weight in outputs:
        parts = logits.chunk(3 if edge_weight > 0 else 2)
        loss = patch_loss(kind, parts[0], True) + patch_loss(kind, parts[1], False)
        if edge_weight > 0:
            loss = loss + edge_weight * patch_loss(kind, parts[2], False)
        total = total + weight * loss
    return total


def real_sign(kind, outputs, parts):
    """ADA's r_t: the mean sign of the decisions on real clips, the first of the batch's parts."""
    middle = 0.5 if kind == "lsgan" else 0.0
    signs = [torch.sign(logits.chunk(parts)[0] - middle).mean() for logits, _, _ in outputs]
    return sum(signs) / len(signs)


def loss_color(output, source):
    """Coarse luma and the colour differences of BT.601 (U = 0.492 (B - Y), V = 0.877 (R - Y)), of colours in [0, 1]."""

    def yuv(clips):
        r, g, b = ((clips[:, i : i + 1] + 1) / 2 for i in range(3))
        y = 0.299 * r + 0.587 * g + 0.114 * b
        return y, 0.492 * (b - y), 0.877 * (r - y)

    ours, theirs = yuv(output), yuv(source)
    coarse = [F.avg_pool2d(to_frames(y), 8, 4) for y in (ours[0], theirs[0])]
    return F.l1_loss(*coarse) + sum(F.l1_loss(ours[i], theirs[i]) for i in (1, 2))


def loss_motion_consistency(output, moved, flow):
    return F.l1_loss(warp(output.detach(), flow), moved)


def loss_flow_consistency(output, flow, mask):
    before = warp(output[:, :, :-1].detach(), flow)
    return (mask.permute(0, 4, 1, 2, 3) * (output[:, :, 1:] - before).abs()).mean()


class Projections(nn.Module):
    """PatchNCE's projections of each of the generator's features, and its loss."""

    GRID, CHANNELS = 16, 256

    def __init__(self, model, channels):
        super().__init__()
        c = model.channels
        self.features = []
        for i, inputs in enumerate((Generator.inputs(model, channels), c, 2 * c, 4 * c, 4 * c)):
            layers = nn.Module()
            layers.conv1 = Convolution(inputs, self.CHANNELS, (1, 1), dims=2)
            layers.conv2 = Convolution(self.CHANNELS, self.CHANNELS, (1, 1), dims=2)
            self.add_module(f"feature{i}", layers)
            self.features.append(layers)

    def project(self, layers, x):
        """Frames [F, C, H, W] to unit vectors [F, positions, CHANNELS]."""
        size = [min(side, self.GRID) for side in x.shape[2:]]
        x = F.interpolate(x, size=size, mode="nearest")
        x = layers.conv2(F.relu(layers.conv1(x))).flatten(2)
        x = x if x.dtype == torch.float64 else x.float()
        return (x / (x.square().mean(1, keepdim=True) + 1e-4).sqrt() / math.sqrt(self.CHANNELS)).mT

    def forward(self, output, source, temperature):
        total = 0
        for layers, ours, theirs in zip(self.features, output, source):
            ours, theirs = (to_frames(x) if x.dim() == 5 else x for x in (ours, theirs))
            queries, keys = self.project(layers, ours), self.project(layers, theirs.detach()).detach()
            products = queries @ keys.mT / temperature
            labels = torch.arange(products.shape[1], device=products.device).expand(products.shape[:2])
            total = total + F.cross_entropy(products.flatten(0, 1), labels.flatten())
        return total / len(self.features)


def input_gradient(outputs, candidate):
    """dD/dcandidate, with D the mean logit of each clip."""
    score = sum(weight * logits.mean() for logits, _, weight in outputs) * len(candidate)
    (gradient,) = torch.autograd.grad(score, candidate, create_graph=True)
    return gradient.flatten(1)


def loss_r1(outputs, target):
    """The mean over clips of |dD/dtarget|^2."""
    return input_gradient(outputs, target).square().sum() / len(target)


def loss_gradient_penalty(outputs, mixed):
    """The mean over clips of (|dD/dmixed| - 1)^2."""
    return (input_gradient(outputs, mixed).norm(2, dim=1) - 1).square().mean()


def loss_generator(kind, outputs):
    total = 0
    for logits, _, weight in outputs:
        if kind == "bce":
            loss = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        elif kind == "lsgan":
            loss = (logits - 1).square().mean() / 2
        else:
            loss = -logits.mean()
        total = total + weight * loss
    return total


def loss_feature_matching(fake, real):
    total = 0
    for (_, fakes, weight), (_, reals, _) in zip(fake, real):
        total = total + weight * sum(F.l1_loss(a, b) for a, b in zip(fakes, reals)) / len(fakes)
    return total


class Perceptual(nn.Module):
    """VGG19 as torchvision builds it, up to relu5_1, with the weights of a safetensors file, and the loss of pix2pixHD."""

    LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512)
    LAYER_WEIGHTS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1}  # indices in `features`: relu1_1 to relu5_1

    def __init__(self, path):
        super().__init__()
        layers, channels = [], 3
        for width in self.LAYERS:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        arrays = read_safetensors(path)
        self.load_state_dict({name: torch.tensor(arrays[name]) for name in self.state_dict()})
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).reshape(3, 1, 1))
        self.register_buffer("deviation", torch.tensor((0.229, 0.224, 0.225)).reshape(3, 1, 1))

    def normalized(self, clips):
        return ((to_frames(clips) + 1) / 2 - self.mean) / self.deviation

    def conv4_4(self, clips):
        """The layer of CartoonGAN and AnimeGAN, before its ReLU."""
        return self.features[:26](self.normalized(clips))

    def content(self, output, source):
        return F.l1_loss(self.conv4_4(output), self.conv4_4(source[:, :3]).detach())

    def gram(self, clips):
        """Gram matrices of grey frames."""
        luma = (clips * torch.tensor((0.299, 0.587, 0.114)).to(clips)[:, None, None, None]).sum(1, keepdim=True)
        x = self.conv4_4(luma.expand(-1, 3, -1, -1, -1)).flatten(2)
        x = x if x.dtype == torch.float64 else x.float()
        return x @ x.mT / x[0].numel()

    def style(self, output, target):
        return F.l1_loss(self.gram(output), self.gram(target).detach())

    def weighted_features(self, clips):
        x = self.normalized(clips)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.LAYER_WEIGHTS:
                yield self.LAYER_WEIGHTS[index], x

    def forward(self, output, target):
        with torch.no_grad():
            targets = list(self.weighted_features(target))
        return sum(weight * F.l1_loss(a, b) for (weight, a), (_, b) in zip(self.weighted_features(output), targets))


@functools.cache
def perceptual_of(path, dtype):
    return Perceptual(path).to(dtype)


# --- The step -------------------------------------------------------------------------------------


def normalize(frames, dtype=torch.float32):
    """u8 [N, T, H, W, C] to [N, C, T, H, W] in [-1, 1]."""
    return (torch.as_tensor(frames).to(dtype) / 127.5 - 1).permute(0, 4, 1, 2, 3)


def upsample(frames, height, width):
    if frames.shape[3:] == (height, width):
        return frames
    resize = lambda x: F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    return per_frame(resize, frames)


class Training:
    """All networks, their optimizers and the EMA; step() is one training step."""

    def __init__(self, config, channels=3, dtype=torch.float32, norms=True, fused=False):
        self.config, self.norms = config, norms
        self.generator = GENERATORS[config.model.generator](config.model, channels).to(dtype)
        self.adversarial = config.loss.adversarial_weight > 0
        self.discriminator = Discriminators(config.model, channels).to(dtype) if self.adversarial else nn.Module()
        self.projection = Projections(config.model, channels).to(dtype) if config.loss.patch_nce > 0 else nn.Module()
        self.networks = {"generator": self.generator, "discriminator": self.discriminator, "projection": self.projection}
        self.augments = self.adversarial and config.augment.mode != "none"
        self.perceptual = nn.Module()
        if config.loss.perceptual > 0 or config.loss.content > 0 or config.loss.style > 0:
            self.perceptual = perceptual_of(config.loss.perceptual_weights, dtype)
        self.ema = {name: p.detach().clone() for name, p in self.generator.named_parameters()}
        optim = config.optim
        self.optimizers = {
            name: torch.optim.AdamW(
                network.parameters(),
                betas=(optim.beta1, optim.beta2),
                eps=optim.epsilon,
                weight_decay=optim.weight_decay,
                **({"fused": True, "capturable": True} if fused else {}),
            )
            for name, network in self.networks.items()
            if list(network.parameters())
        }

    def to(self, **options):
        self.generator.to(**options)
        self.discriminator.to(**options)
        self.projection.to(**options)
        self.perceptual.to(**options)

    # Checkpoints

    @staticmethod
    def name_of(key):
        return key.replace("weight_orig", "weight")  # PyTorch's name for the weight before spectral norm

    @staticmethod
    def from_checkpoint(array, parameter):
        tensor = torch.tensor(array, dtype=parameter.dtype)
        if tensor.dim() == 5:
            tensor = tensor.permute(0, 4, 1, 2, 3)
        # On the parameter's device and in its memory layout, as fused optimizers require.
        return torch.empty_like(parameter.detach()).copy_(tensor.reshape(parameter.shape))

    def load(self, folder):
        """Weights, EMA, moments and counters of a checkpoint; every array must be used."""
        moments = read_safetensors(os.path.join(folder, "optimizer.safetensors"))
        for name, optimizer in self.optimizers.items():
            arrays = read_safetensors(os.path.join(folder, f"{name}.safetensors"))
            applied, skipped, _ = moments.pop(f"{name}.counters")
            assert skipped == 0, f"{name}: {skipped} updates skipped"
            for key, p in self.networks[name].named_parameters():
                key = self.name_of(key)
                optimizer.state[p] = {
                    "step": torch.tensor(float(applied), device=p.device),
                    "exp_avg": self.from_checkpoint(moments.pop(f"{name}.moment1.{key}"), p),
                    "exp_avg_sq": self.from_checkpoint(moments.pop(f"{name}.moment2.{key}"), p),
                }
                p.data.copy_(self.from_checkpoint(arrays.pop(key), p))
                if name == "generator":
                    self.ema[key].copy_(self.from_checkpoint(arrays.pop(f"ema.{key}"), p))
            for key, buffer in self.networks[name].named_buffers():  # of spectral norm
                buffer.copy_(self.from_checkpoint(arrays.pop(key), buffer))
                arrays.pop(re.sub("_u$", "_sigma", key), None)
            assert not arrays, f"{name}.safetensors: unused arrays: {sorted(arrays)}"
        assert not moments, f"optimizer.safetensors: unused arrays: {sorted(moments)}"

    def state(self):
        """Everything a checkpoint holds, flat by name, for comparison."""
        result = {f"ema.{key}": value for key, value in self.ema.items()}
        for name, optimizer in self.optimizers.items():
            for key, buffer in self.networks[name].named_buffers():
                result[f"{name}.{key}"] = buffer.clone()
            for key, p in self.networks[name].named_parameters():
                key = self.name_of(key)
                result[f"{name}.{key}"] = p.detach().clone()
                if p in optimizer.state:
                    result[f"{name}.moment1.{key}"] = optimizer.state[p]["exp_avg"].clone()
                    result[f"{name}.moment2.{key}"] = optimizer.state[p]["exp_avg_sq"].clone()
        return result

    # Schedules

    def lr_factor(self, step):
        optim, total = self.config.optim, self.config.train.steps
        warmup = min(1.0, (step + 1) / optim.lr_warmup_steps) if optim.lr_warmup_steps > 0 else 1.0
        begin = optim.lr_decay_start * total
        if optim.lr_schedule == "constant" or step < begin or begin >= total:
            return warmup
        progress = (step - begin) / (total - begin)
        remaining = 1 - progress if optim.lr_schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return warmup * (optim.lr_min + (1 - optim.lr_min) * remaining)

    def adversarial_weight(self, step):
        optim = self.config.optim
        ramp = min(1.0, (step - optim.pretrain_steps + 1) / optim.adversarial_ramp_steps) if optim.adversarial_ramp_steps > 0 else 1.0
        return self.config.loss.adversarial_weight * ramp

    # Random numbers

    def inputs(self, number, source, target):
        """The Inputs of a step, here drawn by PyTorch; without what a loader adds to the clips. Tests replace it."""
        config, (n, _, t, h, w) = self.config, target.shape
        model, loss, moves = config.model, config.loss, config.loss.motion_consistency > 0

        def draws():
            return augmentation_draws(torch.rand(n, 8, dtype=torch.float64), config.augment.probability, h, w)

        return Inputs(
            noise=torch.randn(n, model.noise_channels, t, h, w).to(target) if model.noise_channels > 0 else None,
            interpolation=torch.rand(n) if loss.adversarial == "wgan-gp" else None,
            augmentation=[draws() for _ in range(3)] if self.augments else None,
            grey=[torch.tensor((0.199, 0.487, 0.014)) + 0.2 * torch.rand(n, 3) for _ in range(3)] if model.grey_view else None,
            motion=(torch.randn(n, 1, 1, 1, 2) * (min(h, w) / 48)).expand(n, 1, h, w, 2) if moves else None,
            motion_noise=0.01 * torch.randn(n, 1, 1, h, w) if moves else None,
        )

    # Updates

    def update(self, names, lr, losses, key):
        """Updates these networks, which are clipped together."""
        clip, parameters = self.config.optim.clip, [p for name in names for p in self.networks[name].parameters()]
        if clip > 0 or self.norms:
            losses[key] = nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
        for name in names:
            for group in self.optimizers[name].param_groups:
                group["lr"] = lr
            self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)

    REAL, FAKE, EDGES = range(3)  # the parts of a discriminator's batch

    def view(self, source, candidate, inputs, part):
        """What the discriminators see of a target or an output; each part has an augmentation of its own."""
        augment = (lambda x: diff_augment(x, inputs.augmentation[part])) if self.augments else (lambda x: x)
        model = self.config.model
        return View(candidate=augment(candidate), source=augment(source) if model.conditional else None,
                    grey=inputs.grey[part] if model.grey_view else None)

    def discriminator_loss(self, source, target, output, inputs):
        """The loss, and with augmentation the mean sign of the decisions on targets."""
        config = self.config.loss
        views = [self.view(source, target, inputs, self.REAL), self.view(source, output, inputs, self.FAKE)]
        if config.edge_negatives > 0:
            views.append(self.view(source, inputs.smoothed, inputs, self.EDGES))
        outputs = self.discriminator(join_views(views))
        sign = real_sign(config.adversarial, outputs, len(views)) if self.augments else None
        return loss_discriminator(config.adversarial, outputs, config.edge_negatives), sign

    def applies_r1(self, number):
        loss, gan_step = self.config.loss, number - self.config.optim.pretrain_steps
        return loss.r1 > 0 and gan_step >= 0 and (gan_step + 1) % loss.r1_interval == 0

    def view_for_gradient(self, source, candidate, inputs, part):
        """A view of which the gradient with respect to its candidate is taken."""
        view = self.view(source, candidate.detach(), inputs, part)
        view.candidate.requires_grad_()
        return view

    def gradient_penalty(self, source, target, output, inputs):
        weights = inputs.interpolation.to(target).view(-1, 1, 1, 1, 1)
        view = self.view_for_gradient(source, output + weights * (target - output), inputs, self.FAKE)
        return loss_gradient_penalty(self.discriminator(view), view.candidate)

    def discriminator_step(self, source, target, output, losses, lr, number, inputs):
        loss, sign = self.discriminator_loss(source, target, output.detach(), inputs)
        weights = self.config.loss
        losses["loss/d"] = loss.detach()
        if sign is not None:
            losses["augment/real_sign"] = sign.detach()
        if weights.adversarial == "wgan-gp" and weights.gradient_penalty > 0:
            penalty = self.gradient_penalty(source, target, output, inputs)
            losses["loss/gradient_penalty"] = penalty.detach()
            loss = loss + weights.gradient_penalty * penalty
        if self.applies_r1(number):
            view = self.view_for_gradient(source, target, inputs, self.REAL)
            penalty = loss_r1(self.discriminator(view), view.candidate)
            losses["loss/r1"] = penalty.detach()
            loss = loss + weights.r1 / 2 * weights.r1_interval * penalty
        loss.backward()
        self.update(["discriminator"], lr, losses, "grad_norm/d")
        self.discriminator.iterate()

    def adversarial_terms(self, source, target, output, weight, inputs):
        weights = self.config.loss
        fake = self.discriminator(self.view(source, output, inputs, self.FAKE))
        yield "loss/adversarial", weight, loss_generator(weights.adversarial, fake)
        if weights.feature_matching > 0:
            with torch.no_grad():
                real = self.discriminator(self.view(source, target, inputs, self.FAKE))
            yield "loss/feature_matching", weights.feature_matching, loss_feature_matching(fake, real)

    def unpaired_terms(self, source, target, output, inputs, features):
        """The losses that need no target of the source. `features` are those of the source."""
        weights = self.config.loss
        if weights.patch_nce > 0:
            ours = self.generator.encode(output, inputs.noise)
            yield "loss/patch_nce", weights.patch_nce, self.projection(ours, features, weights.patch_nce_temperature)
        if weights.color > 0:
            yield "loss/color", weights.color, loss_color(output, source)
        if weights.identity > 0:
            yield "loss/identity", weights.identity, F.l1_loss(self.generator(target, inputs.noise), target)
        if weights.motion_consistency > 0:
            moved = self.generator(warp(source, inputs.motion) + inputs.motion_noise.to(source), inputs.noise)
            term = loss_motion_consistency(output, moved, inputs.motion)
            yield "loss/motion_consistency", weights.motion_consistency, term
        if weights.flow_consistency > 0 and output.shape[2] > 1:
            term = loss_flow_consistency(output, inputs.flow.to(output), inputs.flow_mask.to(output))
            yield "loss/flow_consistency", weights.flow_consistency, term
        if weights.content > 0:
            yield "loss/content", weights.content, self.perceptual.content(output, source)
        if weights.style > 0:
            yield "loss/style", weights.style, self.perceptual.style(output, target)

    def generator_loss(self, source, target, output, losses, weight, pretrain, inputs, features):
        weights, terms = self.config.loss, []
        if weights.l1 > 0:
            terms.append(("loss/l1", weights.l1, F.l1_loss(output, target)))
        if self.adversarial and not pretrain:
            terms += self.adversarial_terms(source, target, output, weight, inputs)
        if weights.perceptual > 0 and not pretrain:
            terms.append(("loss/perceptual", weights.perceptual, self.perceptual(output, target)))
        if weights.temporal > 0 and not pretrain and output.shape[2] > 1:
            terms.append(("loss/temporal", weights.temporal, loss_temporal(output, target)))
        if weights.total_variation > 0 and not pretrain:
            terms.append(("loss/total_variation", weights.total_variation, loss_total_variation(output)))
        if not pretrain:
            terms += self.unpaired_terms(source, target, output, inputs, features)
        losses.update({name: term.detach() for name, _, term in terms})
        return sum(factor * term for _, factor, term in terms)

    def generate(self, source, noise):
        """Output, and the features of the source if a loss needs them."""
        if self.config.loss.patch_nce <= 0:
            return self.generator(source, noise), None
        features = self.generator.encode(source, noise)
        return self.generator.decode(source, features), features

    def step(self, number, source, target):
        """Runs step `number` (0: the first) on normalised clips; returns the losses by their names in metrics.jsonl."""
        optim, losses = self.config.optim, {}
        factor, pretrain = self.lr_factor(number), number < optim.pretrain_steps
        inputs = self.inputs(number, source, target)
        if inputs.noise is not None:
            inputs = inputs._replace(noise=inputs.noise.to(source))
        output, features = self.generate(source, inputs.noise)
        if self.adversarial and not pretrain:
            self.discriminator_step(source, target, output, losses, optim.discriminator_lr * factor, number, inputs)
        self.discriminator.requires_grad_(False)
        weight = self.adversarial_weight(number)
        loss = self.generator_loss(source, target, output, losses, weight, pretrain, inputs, features)
        loss.backward()
        self.discriminator.requires_grad_(True)
        losses["loss/g"] = loss.detach()
        trained = ["generator"] + ["projection"] * (self.config.loss.patch_nce > 0 and not pretrain)
        self.update(trained, optim.generator_lr * factor, losses, "grad_norm/g")
        with torch.no_grad():
            averages = list(self.ema.values())
            torch._foreach_mul_(averages, optim.ema)
            torch._foreach_add_(averages, list(self.generator.parameters()), alpha=1 - optim.ema)
        return losses
