"""Clips [N, C, T, H, W] and their frames [N*T, C, H, W]."""
import torch
import torch.nn.functional as F


def to_frames(clip):
    return clip.transpose(1, 2).flatten(0, 1)


def to_clip(frames, length):
    return frames.unflatten(0, (-1, length)).transpose(1, 2)


def per_frame(function, x):
    if x.dim() == 4:
        return function(x)
    return to_clip(function(to_frames(x)), x.shape[2])


def normalize(frames, dtype=torch.float32):
    """u8 [N, T, H, W, C] to [N, C, T, H, W] in [-1, 1]."""
    return (torch.as_tensor(frames).to(dtype) / 127.5 - 1).permute(0, 4, 1, 2, 3)


def upsample(frames, height, width):
    if frames.shape[3:] == (height, width):
        return frames
    resize = lambda x: F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    return per_frame(resize, frames)


def warp(clips, flow):
    """Backward warping of each frame of [N, C, T, H, W] along `flow` [N, T or 1, H, W, 2] in pixels."""
    n, _, t, h, w = clips.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([columns, rows], -1).to(clips) + flow.to(clips).expand(n, t, h, w, 2)
    grid = 2 * place / torch.tensor([max(w - 1, 1), max(h - 1, 1)]).to(clips) - 1  # from pixels to [-1, 1]
    moved = F.grid_sample(to_frames(clips), grid.flatten(0, 1), "bilinear", "border", align_corners=True)
    return to_clip(moved, t)


def grey_frames(clips, weights):
    """The channels' sum with a clip's three weights [N, 3]."""
    return (clips * weights.to(clips)[:, :, None, None, None]).sum(1, keepdim=True)


def box_mean(x, radius):
    """The mean of the pixels of a square that lie inside of the frame."""
    return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)


def guided_filter(x, radius=5, epsilon=0.2):
    """The guided filter of He, Sun, Tang (2013) with the frames as their own guide, algorithm 1."""
    mean, correlation = box_mean(x, radius), box_mean(x * x, radius)
    variance = correlation - mean * mean
    a = variance / (variance + epsilon)
    b = mean - a * mean
    return box_mean(a, radius) * x + box_mean(b, radius)
