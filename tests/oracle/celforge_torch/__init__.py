"""Celforge's networks, losses and training step as plain PyTorch.

Written from the definitions in trainer/gan/networks.h, trainer/gan/losses.h, trainer/gan/gan.h and
engine/graph/graph.h. The tests compare the engine with it, and the benchmark runs it beside Celforge. Clips are
[N, C, T, H, W] here; weights in checkpoints are [O, T, H, W, I].
"""
from .augmentation import augmentation_draws
from .clips import normalize, per_frame, upsample
from .files import parse_config, read_safetensors, write_safetensors
from .generators import Pix2PixHD
from .perceptual import Perceptual
from .training import Inputs, Training

__all__ = ["Inputs", "Perceptual", "Pix2PixHD", "Training", "augmentation_draws", "normalize", "parse_config", "per_frame",
           "read_safetensors", "upsample", "write_safetensors"]
