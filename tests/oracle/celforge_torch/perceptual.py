"""Losses of VGG19's features."""
import functools

import torch
import torch.nn.functional as F
from torch import nn

from .clips import to_frames
from .files import read_safetensors


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
