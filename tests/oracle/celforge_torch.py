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
        self.dims = dims
        self.stem = Convolution(channels + model.noise_channels, c, (kernel_time, 7), **layer)
        self.down1 = Convolution(c, 2 * c, (1, 3), stride=2, **layer)
        self.down2 = Convolution(2 * c, 4 * c, (1, 3), stride=2, **layer)
        self.gru = ConvGRU(4 * c, dims) if model.temporal == "convgru" else None
        self.blocks = [Residual(4 * c, kernel_time, model.norm, dims) for _ in range(model.blocks)]
        for i, block in enumerate(self.blocks):
            self.add_module(f"block{i}", block)
        self.up1 = Convolution(4 * c, 2 * c, (1, 3), **layer)
        self.up2 = Convolution(2 * c, c, (1, 3), **layer)
        self.head = Convolution(c, 3, (1, 7), scale=0.1, dims=dims)

    def forward(self, source, noise=None):
        length = source.shape[2]
        x = source if noise is None else torch.cat((source, noise), 1)
        x = x if self.dims == 3 else to_frames(x)
        down, right = -source.shape[3] % 4, -source.shape[4] % 4
        if down or right:
            x = F.pad(x, (0, right, 0, down) + (0, 0) * (self.dims - 2), mode="reflect")
        stem = F.relu(self.stem(x))
        half = F.relu(self.down1(stem))
        y = F.relu(self.down2(half))
        if self.gru is not None:
            y = y + self.gru(y, length)
        for block in self.blocks:
            y = block(y)
        for layer, skip in ((self.up1, half), (self.up2, stem)):
            y = F.relu(layer(F.interpolate(y, size=skip.shape[2:], mode="nearest"))) + skip
        residual = self.head(y)[..., : source.shape[3], : source.shape[4]]
        residual = residual if self.dims == 3 else to_clip(residual, length)
        return residual + source[:, :3]


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
        self.images, self.video = [], None
        norm, spectral = model.discriminator_norm, model.spectral_norm
        for scale in range(model.image_scales):
            head = PatchDiscriminator(channels + 3, model.image_channels, model.image_layers, norm, 1, spectral)
            self.add_module(f"image{scale}", head)
            self.images.append(head)
        if model.video:
            self.video = PatchDiscriminator(channels + 3, model.video_channels, model.video_layers, norm, 3, spectral)
        self.eval()  # so that spectral norm iterates in iterate() only, not at every call

    def iterate(self):
        for module in self.modules():
            if isinstance(module, Convolution):
                module.iterate()

    def forward(self, pair):
        outputs, x = [], to_frames(pair)
        for scale, head in enumerate(self.images):
            if scale > 0:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            outputs.append((*head(x), 1 / len(self.images)))
        if self.video:
            outputs.append((*self.video(pair), 1.0))
        return outputs


# --- Losses ---------------------------------------------------------------------------------------


def loss_temporal(output, target):
    return (output.diff(dim=2) - target.diff(dim=2)).abs().mean()


def loss_total_variation(output):
    return output.diff(dim=3).abs().mean() + output.diff(dim=4).abs().mean()


def loss_discriminator(kind, outputs):
    total = 0
    for logits, _, weight in outputs:
        real, fake = logits.chunk(2)
        if kind == "bce":
            loss = F.binary_cross_entropy_with_logits(
                real, torch.ones_like(real)
            ) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        elif kind == "lsgan":
            loss = ((real - 1).square().mean() + fake.square().mean()) / 2
        elif kind == "wgan-gp":
            loss = fake.mean() - real.mean()
        else:
            loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        total = total + weight * loss
    return total


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

    def weighted_features(self, clips):
        x = ((to_frames(clips) + 1) / 2 - self.mean) / self.deviation
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
    """Both networks, their optimizers and the EMA; step() is one training step."""

    def __init__(self, config, channels=3, dtype=torch.float32, norms=True, fused=False):
        self.config, self.norms = config, norms
        self.generator = GENERATORS[config.model.generator](config.model, channels).to(dtype)
        self.adversarial = config.loss.adversarial_weight > 0
        self.discriminator = Discriminators(config.model, channels).to(dtype) if self.adversarial else nn.Module()
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.perceptual = nn.Module()
        if config.loss.perceptual > 0:
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

    # Updates

    def update(self, name, lr, losses, key):
        optimizer, clip = self.optimizers[name], self.config.optim.clip
        parameters = list(self.networks[name].parameters())
        if clip > 0 or self.norms:
            losses[key] = nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def discriminator_loss(self, source, target, output):
        pairs = torch.cat((torch.cat((source, target), 1), torch.cat((source, output), 1)))
        return loss_discriminator(self.config.loss.adversarial, self.discriminator(pairs))

    def applies_r1(self, number):
        loss, gan_step = self.config.loss, number - self.config.optim.pretrain_steps
        return loss.r1 > 0 and gan_step >= 0 and (gan_step + 1) % loss.r1_interval == 0

    def interpolation_weights(self, number, clips):
        """Each clip's random point between output and target, for the gradient penalty of a step."""
        return torch.rand(clips)

    def gradient_penalty(self, source, target, output, weights):
        weights = weights.to(target).view(-1, 1, 1, 1, 1)
        mixed = (output + weights * (target - output)).detach().requires_grad_()
        return loss_gradient_penalty(self.discriminator(torch.cat((source, mixed), 1)), mixed)

    def discriminator_step(self, source, target, output, losses, lr, number):
        loss, weights = self.discriminator_loss(source, target, output.detach()), self.config.loss
        losses["loss/d"] = loss.detach()
        if weights.adversarial == "wgan-gp" and weights.gradient_penalty > 0:
            penalty = self.gradient_penalty(source, target, output, self.interpolation_weights(number, len(target)))
            losses["loss/gradient_penalty"] = penalty.detach()
            loss = loss + weights.gradient_penalty * penalty
        if self.applies_r1(number):
            target = target.detach().requires_grad_()
            penalty = loss_r1(self.discriminator(torch.cat((source, target), 1)), target)
            losses["loss/r1"] = penalty.detach()
            loss = loss + weights.r1 / 2 * weights.r1_interval * penalty
        loss.backward()
        self.update("discriminator", lr, losses, "grad_norm/d")
        self.discriminator.iterate()

    def generator_loss(self, source, target, output, losses, weight, pretrain):
        weights, terms = self.config.loss, []
        if weights.l1 > 0:
            terms.append(("loss/l1", weights.l1, F.l1_loss(output, target)))
        if self.adversarial and not pretrain:
            fake = self.discriminator(torch.cat((source, output), 1))
            terms.append(("loss/adversarial", weight, loss_generator(weights.adversarial, fake)))
            if weights.feature_matching > 0:
                with torch.no_grad():
                    real = self.discriminator(torch.cat((source, target), 1))
                term = loss_feature_matching(fake, real)
                terms.append(("loss/feature_matching", weights.feature_matching, term))
        if weights.perceptual > 0 and not pretrain:
            terms.append(("loss/perceptual", weights.perceptual, self.perceptual(output, target)))
        if weights.temporal > 0 and not pretrain and output.shape[2] > 1:
            terms.append(("loss/temporal", weights.temporal, loss_temporal(output, target)))
        if weights.total_variation > 0 and not pretrain:
            terms.append(("loss/total_variation", weights.total_variation, loss_total_variation(output)))
        losses.update({name: term.detach() for name, _, term in terms})
        return sum(factor * term for _, factor, term in terms)

    def step(self, number, source, target):
        """Runs step `number` (0: the first) on normalised clips; returns the losses by their names in metrics.jsonl."""
        optim, losses = self.config.optim, {}
        factor, pretrain = self.lr_factor(number), number < optim.pretrain_steps
        output = self.generator(source)
        if self.adversarial and not pretrain:
            self.discriminator_step(source, target, output, losses, optim.discriminator_lr * factor, number)
        self.discriminator.requires_grad_(False)
        loss = self.generator_loss(source, target, output, losses, self.adversarial_weight(number), pretrain)
        loss.backward()
        self.discriminator.requires_grad_(True)
        losses["loss/g"] = loss.detach()
        self.update("generator", optim.generator_lr * factor, losses, "grad_norm/g")
        with torch.no_grad():
            averages = list(self.ema.values())
            torch._foreach_mul_(averages, optim.ema)
            torch._foreach_add_(averages, list(self.generator.parameters()), alpha=1 - optim.ema)
        return losses
