#!/usr/bin/python3
"""run.init: runs that initialise their weights from another run."""
import json
import os
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402
from runs import Run  # noqa: E402

# Learning rates of 0: a run ends with its initial weights.
NO_LEARNING = {"train.steps": 4, "optim.generator_lr": 0, "optim.discriminator_lr": 0, "run.seed": 8}


def network(run, name="generator"):
    """The tensors of the last checkpoint: name to bytes."""
    content = run.last_checkpoint()[f"{name}.safetensors"]
    begin = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:begin]), content[begin:]
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.items() if name != "__metadata__"}


def learned(state):
    """The learned tensors: without EMA weights and the state of spectral norm."""
    return {name: value for name, value in state.items()
            if not name.startswith("ema.") and not name.endswith(("_u", "_v", "_sigma"))}


def sigmas(run):
    return [struct.unpack("<f", value)[0] for name, value in sorted(network(run, "discriminator").items())
            if name.endswith("_sigma")]


def test_weights(tap, folder):
    """Weights of another run"""
    data = runs.synth(os.path.join(folder, "data"))
    other = runs.synth(os.path.join(folder, "other"), seed=2)
    first = Run(os.path.join(folder, "first"), data, {"train.steps": 8}).must_train()
    second = Run(os.path.join(folder, "second"), other, {**NO_LEARNING, "run.init": first.folder}).must_train()
    tap.check(learned(network(second)) == learned(network(first)), "the generator starts with the other run's weights")
    tap.check(learned(network(second, "discriminator")) == learned(network(first, "discriminator")), "the discriminator starts with the other run's weights")
    ratios = [ours / theirs for ours, theirs in zip(sigmas(second), sigmas(first))]
    tap.check(len(ratios) == 8 and 0.95 < min(ratios) and max(ratios) < 1.05,
              "the spectral norms are those of these weights",
              ratios)
    averages = Run(os.path.join(folder, "averages"), data,
                   {**NO_LEARNING, "train.steps": 1, "optim.ema": 0.999999999, "run.init": first.checkpoint(8)}).must_train()
    tap.check(network(averages) == network(first), "EMA weights start with the other run's EMA weights", averages.log_text())
    fresh = Run(os.path.join(folder, "fresh"), data, NO_LEARNING).must_train()
    tap.check(learned(network(fresh)) != learned(network(first)), "without run.init the weights are random")

    said = "run.init: model.spectral_norm is false here and true in "
    tap.check(said not in second.log_text(), "no warning about spectral norm if both runs use it", second.log_text())
    without = Run(os.path.join(folder, "without"), data,
                  {**NO_LEARNING, "model.spectral_norm": False, "run.init": first.folder}).must_train(2)
    tap.check(without.log_text().count(said) == 1, "a run without spectral norm logs one warning", without.log_text())

    shutil.move(first.folder, first.folder + "-moved")
    second.settings["train.steps"] = 8
    code = second.train()
    tap.check(code == 0 and "resuming from" in second.log_text() and "run.init" not in second.log_text(),
              "a resumed run does not read run.init", second.log_text())


def test_partial(tap, folder):
    """Networks with more layers than the run they are initialised from"""
    data = runs.synth(os.path.join(folder, "data"))
    first = Run(os.path.join(folder, "first"), data, {"train.steps": 8, "model.video": False}).must_train()
    more = {**NO_LEARNING, "model.blocks": 2, "run.init": first.folder}
    second = Run(os.path.join(folder, "second"), data, more).must_train()
    old, new = learned(network(first)), learned(network(second))
    kept = all(new[name] == value for name, value in old.items())
    tap.check(kept and any(name.startswith("block1.") for name in new) and len(new) > len(old), "missing tensors are initialised randomly")
    said = f"run.init: {len(old)} of the generator's {len(new)} tensors are from"
    tap.check(said in second.log_text(), "the log counts the generator's tensors", second.log_text())
    discriminators = len(learned(network(first, "discriminator"))), len(learned(network(second, "discriminator")))
    tap.check(f"{discriminators[0]} of the discriminator's {discriminators[1]} tensors" in second.log_text(),
              "the log counts the discriminator's tensors", second.log_text())
    spread = Run(os.path.join(folder, "spread"), data, more)
    code = spread.train(ranks=2)
    tap.check(code == 0 and not runs.difference(spread.last_checkpoint(), second.last_checkpoint()),
              "two ranks start with the same weights as one", spread.log_text())


def test_projections(tap, folder):
    """The projections of PatchNCE"""
    data, targets = runs.synth(os.path.join(folder, "data")), runs.synth(os.path.join(folder, "targets"), 2)
    settings = {**runs.UNPAIRED, "data.target_path": targets}
    first = Run(os.path.join(folder, "first"), data, {**settings, "train.steps": 4}).must_train()
    second = Run(os.path.join(folder, "second"), data, {**settings, **NO_LEARNING, "run.init": first.folder}).must_train()
    tap.check(network(second, "projection") == network(first, "projection"), "the projections start with the other run's weights")
    tap.check("run.init: 20 of the projection's 20 tensors are from" in second.log_text(), "the log counts them", second.log_text())
    without = Run(os.path.join(folder, "without"), data, {**settings, "train.steps": 4, "loss.patch_nce": 0}).must_train()
    tap.check("projection.safetensors" not in without.last_checkpoint(), "a run without PatchNCE has no projections")
    fresh = Run(os.path.join(folder, "fresh"), data, {**settings, **NO_LEARNING, "run.init": without.folder}).must_train()
    tap.check(network(fresh, "projection") != network(first, "projection")
              and "run.init: 0 of the projection's 20 tensors are from" in fresh.log_text()
              and learned(network(fresh)) == learned(network(without)),
              "started from a run without them, they are initialised randomly", fresh.log_text())


def test_coarse_to_fine(tap, folder):
    """pix2pixhd: the global generator at half the size, then with a local enhancer"""
    settings = {"model.generator": "pix2pixhd", "model.temporal": "none", "model.norm": "instance", "model.downsamplings": 2}
    half = runs.synth(os.path.join(folder, "half"), size="16x16")
    first = Run(os.path.join(folder, "first"), half, {**settings, "train.steps": 8}).must_train()
    more = {**NO_LEARNING, **settings, "model.local_enhancers": 1, "run.init": first.folder}
    second = Run(os.path.join(folder, "second"), runs.synth(os.path.join(folder, "data")), more).must_train()
    old, new = learned(network(first)), learned(network(second))
    kept = {name for name, value in old.items() if new.get(name) == value}
    tap.check(kept == {name for name in old if not name.startswith("head.")},
              "all tensors but the head are copied", str(kept))
    tap.check(all(name in kept or name.startswith("enhancer.") for name in new),
              "the enhancer is initialised randomly", str(set(new) - kept))


def rename_tensors(path):
    """Renames all tensors of a checkpoint's generator, keeping the lengths of the names."""
    name = os.path.join(path, "generator.safetensors")
    with open(name, "rb") as file:
        size = file.read(8)
        text = file.read(int.from_bytes(size, "little")).decode()
        data = file.read()
    header = json.loads(text)
    for tensor in header:
        if tensor != "__metadata__":
            text = text.replace(f'"{tensor}":', f'"X{tensor[1:]}":')
    content = size + text.encode() + data
    with open(name, "wb") as file:
        file.write(content)
    manifest = os.path.join(path, "manifest.json")
    with open(manifest, encoding="utf-8") as file:
        whole = json.load(file)
    whole["files"]["generator.safetensors"]["crc32c"] = runs.crc32c(content)
    del whole["crc32c"]
    rest = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    whole["crc32c"] = runs.crc32c(rest.encode())
    with open(manifest, "w", encoding="utf-8") as file:
        json.dump(whole, file)


def test_rejected(tap, folder):
    """Checkpoints that do not fit"""
    data = runs.synth(os.path.join(folder, "data"))
    first = Run(os.path.join(folder, "first"), data, {"train.steps": 2}).must_train()

    def rejected(name, code, words, init, changes=None, ranks=1):
        run = Run(os.path.join(folder, "rejected"), data, {**NO_LEARNING, "run.init": init, **(changes or {})})
        found, said = run.train(ranks=ranks), run.log_text()
        tap.check(found == code and words in said, f"{name}: rejected, exit code {code}", f"exit code {found}\n{said}")
        tap.check(not os.path.exists(run.path("checkpoints")), f"{name}: no checkpoint written")
        shutil.rmtree(run.folder, ignore_errors=True)

    rejected("a missing path", 74, "run.init: ", os.path.join(folder, "nowhere"))
    rejected("a dataset", 65, "run.init: ", data, ranks=2)
    weights = os.path.join(first.checkpoint(2), "generator.safetensors")
    rejected("another number of channels", 64, f'run.init: {weights}: tensor "stem.weight" is F32 [4', first.folder,
            {"model.channels": 6}, ranks=2)
    foreign = os.path.join(folder, "foreign")
    shutil.copytree(first.checkpoint(2), foreign)
    rename_tensors(foreign)
    rejected("another generator", 64, "holds none of the tensors of this generator", foreign)


if __name__ == "__main__":
    runs.main([test_weights, test_partial, test_projections, test_coarse_to_fine, test_rejected])
