"""The training step (trainer/gan/gan.h)."""
import math
import os
import re
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import nn

from .augmentation import augmentation_draws, diff_augment
from .clips import warp
from .discriminators import Discriminators, View, join_views
from .files import read_safetensors
from .generators import GENERATORS
from .losses import (loss_color, loss_discriminator, loss_feature_matching, loss_flow_consistency, loss_generator,
                     loss_gradient, loss_gradient_penalty, loss_motion_consistency, loss_r1, loss_temporal,
                     loss_total_variation, real_sign)
from .patch_nce import Projections
from .perceptual import perceptual_of


class Inputs(NamedTuple):
    """What a step needs beside its clips; None: not needed. Lists have an entry for each part of the discriminators' batch."""

    noise: Optional[torch.Tensor] = None  # of the generator, [N, C, T, H, W]
    interpolation: Optional[torch.Tensor] = None  # random points of the gradient penalty, [N]
    augmentation: Optional[list] = None  # draws [N, 9] of diff_augment
    grey: Optional[list] = None  # weights [N, 3]
    motion: Optional[torch.Tensor] = None  # synthetic motion [N, 1, H, W, 2] in pixels
    motion_noise: Optional[torch.Tensor] = None  # noise of the moved source, [N, 1, 1, H, W]
    smoothed: Optional[torch.Tensor] = None  # targets with smoothed edges, [N, 3, T, H, W]
    mirror: Optional[torch.Tensor] = None  # clips that PatchNCE mirrors, [N] of 0 and 1
    flow: Optional[torch.Tensor] = None  # optical flow of the source [N, T-1, H, W, 2]
    flow_mask: Optional[torch.Tensor] = None  # where it is reliable, [N, T-1, H, W, 1]


class Training:
    """All networks, their optimizers and the EMA; step() is one training step."""

    def __init__(self, config, channels=3, dtype=torch.float32, norms=True, fused=False):
        self.config, self.norms = config, norms
        self.generator = GENERATORS[config.model.generator](config.model, channels).to(dtype)
        self.adversarial = config.loss.adversarial_weight > 0
        self.discriminator = Discriminators(config.model, channels).to(dtype) if self.adversarial else nn.Module()
        self.projection = Projections(config.model, channels).to(dtype) if config.loss.patch_nce > 0 else nn.Module()
        self.networks = {"generator": self.generator, "discriminator": self.discriminator, "projection": self.projection}
        self.augments = self.adversarial and config.augment.mode != "none"
        self.perceptual = nn.Module()
        if config.loss.perceptual > 0 or config.loss.content > 0 or config.loss.style > 0:
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
        self.projection.to(**options)
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

    # Random numbers

    def inputs(self, number, source, target):
        """The Inputs of a step, here drawn by PyTorch; without what a loader adds to the clips. Tests replace it."""
        config, (n, _, t, h, w) = self.config, target.shape
        model, loss, moves = config.model, config.loss, config.loss.motion_consistency > 0

        def draws():
            return augmentation_draws(torch.rand(n, 8, dtype=torch.float64), config.augment.probability, h, w)

        return Inputs(
            noise=torch.randn(n, model.noise_channels, t, h, w).to(target) if model.noise_channels > 0 else None,
            interpolation=torch.rand(n) if loss.adversarial == "wgan-gp" else None,
            augmentation=[draws() for _ in range(3)] if self.augments else None,
            grey=[torch.tensor((0.199, 0.487, 0.014)) + 0.2 * torch.rand(n, 3) for _ in range(3)] if model.grey_view else None,
            motion=(torch.randn(n, 1, 1, 1, 2) * (min(h, w) / 48)).expand(n, 1, h, w, 2) if moves else None,
            motion_noise=0.01 * torch.randn(n, 1, 1, h, w) if moves else None,
            mirror=torch.randint(0, 2, (n,)) if loss.patch_nce > 0 and loss.patch_nce_flip else None,
        )

    # Updates

    def update(self, names, lr, losses, key):
        """Updates these networks, which are clipped together."""
        clip, parameters = self.config.optim.clip, [p for name in names for p in self.networks[name].parameters()]
        if clip > 0 or self.norms:
            losses[key] = nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
        for name in names:
            for group in self.optimizers[name].param_groups:
                group["lr"] = lr
            self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)

    REAL, FAKE, EDGES = range(3)  # the parts of a discriminator's batch

    def view(self, source, candidate, inputs, part):
        """What the discriminators see of a target or an output; each part has an augmentation of its own."""
        augment = (lambda x: diff_augment(x, inputs.augmentation[part])) if self.augments else (lambda x: x)
        model = self.config.model
        return View(candidate=augment(candidate), source=augment(source) if model.conditional else None,
                    grey=inputs.grey[part] if model.grey_view else None)

    def discriminator_loss(self, source, target, output, inputs):
        """The loss, and with augmentation the mean sign of the decisions on targets."""
        config = self.config.loss
        views = [self.view(source, target, inputs, self.REAL), self.view(source, output.clamp(-1, 1), inputs, self.FAKE)]
        if config.edge_negatives > 0:
            views.append(self.view(source, inputs.smoothed, inputs, self.EDGES))
        outputs = self.discriminator(join_views(views))
        sign = real_sign(config.adversarial, outputs, len(views)) if self.augments else None
        return loss_discriminator(config.adversarial, outputs, config.edge_negatives), sign

    def applies_r1(self, number):
        loss, gan_step = self.config.loss, number - self.config.optim.pretrain_steps
        return loss.r1 > 0 and gan_step >= 0 and (gan_step + 1) % loss.r1_interval == 0

    def view_for_gradient(self, source, candidate, inputs, part):
        """A view of which the gradient with respect to its candidate is taken."""
        view = self.view(source, candidate.detach(), inputs, part)
        view.candidate.requires_grad_()
        return view

    def gradient_penalty(self, source, target, output, inputs):
        weights, output = inputs.interpolation.to(target).view(-1, 1, 1, 1, 1), output.clamp(-1, 1)
        view = self.view_for_gradient(source, output + weights * (target - output), inputs, self.FAKE)
        return loss_gradient_penalty(self.discriminator(view), view.candidate)

    def discriminator_step(self, source, target, output, losses, lr, number, inputs):
        loss, sign = self.discriminator_loss(source, target, output.detach(), inputs)
        weights = self.config.loss
        losses["loss/d"] = loss.detach()
        if sign is not None:
            losses["augment/real_sign"] = sign.detach()
        if weights.adversarial == "wgan-gp" and weights.gradient_penalty > 0:
            penalty = self.gradient_penalty(source, target, output, inputs)
            losses["loss/gradient_penalty"] = penalty.detach()
            loss = loss + weights.gradient_penalty * penalty
        if self.applies_r1(number):
            view = self.view_for_gradient(source, target, inputs, self.REAL)
            penalty = loss_r1(self.discriminator(view), view.candidate)
            losses["loss/r1"] = penalty.detach()
            loss = loss + weights.r1 / 2 * weights.r1_interval * penalty
        loss.backward()
        self.update(["discriminator"], lr, losses, "grad_norm/d")
        self.discriminator.iterate()

    def adversarial_terms(self, source, target, output, weight, inputs):
        weights = self.config.loss
        fake = self.discriminator(self.view(source, output.clamp(-1, 1), inputs, self.FAKE))
        yield "loss/adversarial", weight, loss_generator(weights.adversarial, fake)
        if weights.feature_matching > 0:
            with torch.no_grad():
                real = self.discriminator(self.view(source, target, inputs, self.FAKE))
            yield "loss/feature_matching", weights.feature_matching, loss_feature_matching(fake, real)

    def mirrored_features(self, source, inputs):
        """Features of the source; of clips that are mirrored, of the mirrored source, mirrored back."""

        def mirror(x):  # a clip, or the frames of all clips
            mirrored = inputs.mirror.to(x.device).repeat_interleave(len(x) // len(inputs.mirror))
            return torch.where(mirrored.view(-1, *[1] * (x.dim() - 1)) > 0, x.flip(-1), x)

        with torch.no_grad():
            features = self.generator.encode(mirror(source), None if inputs.noise is None else mirror(inputs.noise))
            return [mirror(x) for x in features]

    def unpaired_terms(self, source, target, output, inputs, features):
        """The losses that need no target of the source. `features` are those of the source."""
        weights = self.config.loss
        if weights.patch_nce > 0:
            ours = self.generator.encode(output, inputs.noise)
            features = features if inputs.mirror is None else self.mirrored_features(source, inputs)
            yield "loss/patch_nce", weights.patch_nce, self.projection(ours, features, weights.patch_nce_temperature)
        if weights.color > 0:
            yield "loss/color", weights.color, loss_color(output, source)
        if weights.identity > 0:
            yield "loss/identity", weights.identity, F.l1_loss(self.generator(target, inputs.noise), target)
        if weights.motion_consistency > 0:
            moved = self.generator(warp(source, inputs.motion) + inputs.motion_noise.to(source), inputs.noise)
            term = loss_motion_consistency(output, moved, inputs.motion)
            yield "loss/motion_consistency", weights.motion_consistency, term
        if weights.flow_consistency > 0 and output.shape[2] > 1:
            term = loss_flow_consistency(output, inputs.flow.to(output), inputs.flow_mask.to(output))
            yield "loss/flow_consistency", weights.flow_consistency, term
        if weights.content > 0:
            yield "loss/content", weights.content, self.perceptual.content(output, source)
        if weights.style > 0:
            yield "loss/style", weights.style, self.perceptual.style(output, target)

    def generator_loss(self, source, target, output, losses, weight, pretrain, inputs, features):
        weights, terms = self.config.loss, []
        if weights.l1 > 0:
            terms.append(("loss/l1", weights.l1, F.l1_loss(output, target)))
        if weights.gradient > 0 and not pretrain:
            terms.append(("loss/gradient", weights.gradient, loss_gradient(output, target)))
        if self.adversarial and not pretrain:
            terms += self.adversarial_terms(source, target, output, weight, inputs)
        if weights.perceptual > 0 and not pretrain:
            terms.append(("loss/perceptual", weights.perceptual, self.perceptual(output, target)))
        if weights.temporal > 0 and not pretrain and output.shape[2] > 1:
            terms.append(("loss/temporal", weights.temporal, loss_temporal(output, target)))
        if weights.total_variation > 0 and not pretrain:
            terms.append(("loss/total_variation", weights.total_variation, loss_total_variation(output)))
        if not pretrain:
            terms += self.unpaired_terms(source, target, output, inputs, features)
        losses.update({name: term.detach() for name, _, term in terms})
        return sum(factor * term for _, factor, term in terms)

    def generate(self, source, noise):
        """Output, and the features of the source if a loss needs them."""
        if self.config.loss.patch_nce <= 0 or self.config.loss.patch_nce_flip:
            return self.generator(source, noise), None
        features = self.generator.encode(source, noise)
        return self.generator.decode(source, features), features

    def step(self, number, source, target):
        """Runs step `number` (0: the first) on normalised clips; returns the losses by their names in metrics.jsonl."""
        optim, losses = self.config.optim, {}
        factor, pretrain = self.lr_factor(number), number < optim.pretrain_steps
        inputs = self.inputs(number, source, target)
        if inputs.noise is not None:
            inputs = inputs._replace(noise=inputs.noise.to(source))
        output, features = self.generate(source, inputs.noise)
        if self.adversarial and not pretrain:
            self.discriminator_step(source, target, output, losses, optim.discriminator_lr * factor, number, inputs)
        self.discriminator.requires_grad_(False)
        weight = self.adversarial_weight(number)
        loss = self.generator_loss(source, target, output, losses, weight, pretrain, inputs, features)
        loss.backward()
        self.discriminator.requires_grad_(True)
        losses["loss/g"] = loss.detach()
        trained = ["generator"] + ["projection"] * (self.config.loss.patch_nce > 0 and not pretrain)
        self.update(trained, optim.generator_lr * factor, losses, "grad_norm/g")
        with torch.no_grad():
            averages = list(self.ema.values())
            torch._foreach_mul_(averages, optim.ema)
            torch._foreach_add_(averages, list(self.generator.parameters()), alpha=1 - optim.ema)
        return losses
