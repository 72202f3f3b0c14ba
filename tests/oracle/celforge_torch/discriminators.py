"""PatchGANs on frames and clips, and their input."""
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import nn

from .clips import grey_frames, guided_filter, to_frames
from .layers import Convolution

LEAKY_SLOPE = 0.2


class View(NamedTuple):
    """The input of the discriminators."""

    candidate: torch.Tensor
    source: Optional[torch.Tensor] = None  # None: not conditional
    grey: Optional[torch.Tensor] = None  # weights [N, 3] of the grey view


def join_views(views):
    return View(*(None if values[0] is None else torch.cat(values) for values in zip(*views)))


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
