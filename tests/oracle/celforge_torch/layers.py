"""Layers of the networks. A network with 3D convolutions works on clips [N, C, T, H, W], one without on frames [N*T, C, H, W]."""
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm, spectral_norm

from .clips import per_frame

NORM_EPSILON = 1e-5
GROUP_CHANNELS = 16


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
