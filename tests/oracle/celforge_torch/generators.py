"""The generators celnet and pix2pixHD (trainer/gan/networks.h)."""
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from .clips import guided_filter, per_frame, to_clip, to_frames
from .layers import Convolution, ConvGRU, Norm, Residual


class ToneCurve(Convolution):
    """Adds to each pixel a colour that depends on its luma: a sum of soft steps at the knots."""

    def __init__(self, count):
        super().__init__(count, 3, (1, 1), scale=0.02)
        self.knots = nn.Parameter(torch.linspace(-1, 1, count))

    def forward(self, x):
        luma = (x.float() * torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
        knots = self.knots.view(1, -1, 1, 1, 1)
        return x + super().forward(torch.tanh((luma - knots) * len(self.knots) / 2).to(x.dtype))


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
        self.tones = ToneCurve(model.tones) if model.tones > 0 else nn.Identity()

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
        return self.tones(residual + (self.encoded_base(source, features) if self.smooth_base else source[:, :3]))

    def encoded_base(self, source, features):
        """The smooth base that encode() computed, which is part of its first feature."""
        x = features[0] if self.dims == 3 else to_clip(features[0], source.shape[2])
        return x[:, source.shape[1] : source.shape[1] + 3, :, : source.shape[3], : source.shape[4]]


# pix2pixHD: the layers of GlobalGenerator and LocalEnhancer in the authors' networks.py, under our names.


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
