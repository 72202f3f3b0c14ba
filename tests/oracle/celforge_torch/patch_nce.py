"""PatchNCE (Park et al. 2020)."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from .clips import to_frames
from .generators import Generator
from .layers import Convolution


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
