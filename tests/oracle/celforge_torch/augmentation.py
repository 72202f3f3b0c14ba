"""DiffAugment with draws of its own for each clip (trainer/gan/diff_augment.h)."""
import math

import torch
import torch.nn.functional as F


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
