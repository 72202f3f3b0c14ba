"""The losses of trainer/gan/losses.h, but for those with networks of their own (patch_nce.py, perceptual.py)."""
import torch
import torch.nn.functional as F

from .clips import to_frames, warp


def loss_temporal(output, target):
    return (output.diff(dim=2) - target.diff(dim=2)).abs().mean()


def loss_gradient(output, target):
    return sum((output.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (3, 4))


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
