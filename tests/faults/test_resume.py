#!/usr/bin/python3
"""Runs that are killed, stopped, resumed on another number of ranks, or find damaged checkpoints: they end with the bytes of
an uninterrupted run. CELFORGE_TEST_SEED selects the moments of the kills."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402
from runs import Run  # noqa: E402

SEED = int(os.environ.get("CELFORGE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
KILLS = 10
STEPS = 100
ENDLESS = 1000000  # steps: a run that must not finish before it is stopped


def incomplete_checkpoints(run, checked):
    """Incomplete checkpoints under a final name. One whose removal was interrupted has no manifest, which is allowed except
    for the newest. `checked` holds the files that were complete before."""
    bad = []
    steps = run.checkpoints()
    for step in steps:
        manifest = os.path.join(run.checkpoint(step), "manifest.json")
        if not os.path.exists(manifest):
            if step == steps[-1]:
                bad.append(f"step {step}: the newest, without a manifest")
            continue
        with open(manifest, encoding="utf-8") as file:
            files = json.load(file)["files"]
        for name, entry in files.items():
            path = os.path.join(run.checkpoint(step), name)
            key = (run.folder, step, name, entry["crc32c"])
            if os.path.getsize(path) != entry["bytes"]:
                bad.append(f"{path}: {os.path.getsize(path)} bytes")
            elif key not in checked:
                with open(path, "rb") as file:
                    if runs.crc32c(file.read()) != entry["crc32c"]:
                        bad.append(f"{path}: checksum")
                checked.add(key)
    return bad


def is_writing(run):
    try:
        return any(name.endswith(".tmp") for name in os.listdir(run.path("checkpoints")))
    except FileNotFoundError:
        return False


def start_and_kill(run, moments, in_write):
    """Starts the run and kills it a few steps later; True if it was killed before its end."""
    before = run.metrics_line_count()
    run.start()
    if not run.wait_for(lambda: run.metrics_line_count() != before):
        return False
    steps = run.metrics_line_count() + moments.randrange(5)
    if not run.wait_for(lambda: run.metrics_line_count() >= steps):
        return False
    if in_write and not run.stop_ranks_when(lambda: is_writing(run), moments.random() * 0.001):
        return False
    if not in_write:
        time.sleep(moments.random() * 0.02)
    return run.kill() == -signal.SIGKILL


def kill_again_and_again(run, moments, checked):
    """Repeats until the run is done; returns (kills in a step, kills in a write, incomplete checkpoints)."""
    kills, bad = [0, 0], []
    while run.running() or run.process.returncode != 0:
        in_write = kills[1] < kills[0]
        if sum(kills) >= KILLS:
            run.must_train()
        elif start_and_kill(run, moments, in_write):
            kills[is_writing(run)] += 1
            bad += incomplete_checkpoints(run, checked)
        elif run.process.returncode != 0:
            raise AssertionError(f"exit code {run.process.returncode}\n{run.log_text()}")
    return kills, bad


def check_same_end(tap, run, undisturbed, what):
    differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
    tap.check(not differs, f"{what} ends with the bytes of an uninterrupted one", f"different: {differs}")


def test_kills(tap, folder, precision):
    """Killed with SIGKILL at random moments"""
    moments = random.Random(f"{SEED} {precision}")
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": STEPS, "train.precision": precision, "checkpoint.every": 2,
                "checkpoint.keep": 2}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings)
    code = undisturbed.train()
    if precision != "f32" and code == 64 and "does not run on this device" in undisturbed.log_text():
        tap.skip(f"{precision}: killed and resumed", f"this processor has no {precision}")
        return
    tap.check(code == 0, f"{precision}: an uninterrupted run", undisturbed.log_text())
    total, checked, bad = [0, 0], set(), []
    while sum(total) < KILLS:
        run = Run(os.path.join(folder, f"killed-{sum(total)}"), data, settings)
        run.write_config()
        run.start()
        run.kill()  # before the first step
        kills, found = kill_again_and_again(run, moments, checked)
        total = [total[0] + kills[0], total[1] + kills[1]]
        bad += found
        what = f"{precision}: a run killed {sum(kills)} times"
        check_same_end(tap, run, undisturbed, what)
        tap.check(run.metrics() == undisturbed.metrics(), f"{what} has the same metrics, with each step once")
    print(f"# {precision}: {total[0]} kills in a step, {total[1]} in a checkpoint write, seed {SEED}")
    tap.check(total[1] > 0, f"{precision}: some kills hit a checkpoint write")
    tap.check(not bad, f"{precision}: {len(checked)} checkpoint files exist after kills, none of them incomplete",
              "\n".join(bad))


def test_f32_kills(tap, folder):
    """f32: killed and resumed"""
    test_kills(tap, folder, "f32")


def test_bf16_kills(tap, folder):
    """bf16: killed and resumed"""
    test_kills(tap, folder, "bf16")


def test_world_sizes(tap, folder):
    """Resumed on 1 and 4 ranks after a rank of 2 was killed"""
    if not shutil.which("mpirun"):
        tap.skip("resumed on other numbers of ranks", "no mpirun")
        return
    moments = random.Random(f"{SEED} ranks")
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": STEPS, "checkpoint.every": 2}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    run, code, took = kill_a_rank(lambda number: Run(os.path.join(folder, f"moved-{number}"), data, settings), moments)
    tap.check(code not in (0, 75) and took < 60, "a killed rank ends the whole job", f"{code} after {took:.1f} s")
    run.start(ranks=1)
    run.wait_for(lambda: "training on" in run.log_text() and run.metrics_line_count() >= 20 + moments.randrange(4))
    run.kill()
    resumed = "resuming from" in run.log_text()
    code = run.train(ranks=4)
    tap.check(code == 0 and resumed and "resuming from" in run.log_text(), "2, then 1, then 4 ranks do one run", run.log_text())
    runs.check_same_losses(tap, undisturbed.metrics(), run.metrics(), "with the samples and the losses of an uninterrupted run on 1 rank")


def kill_a_rank(make, moments):
    """Kills one of two ranks; returns the run, its exit code and the seconds until its end. Repeats if the run had ended."""
    for number in range(5):
        run = make(number).start(ranks=2)
        run.wait_for(lambda: run.metrics_line_count() >= 4 + moments.randrange(4) and len(run.checkpoints()) > 1)
        begin = time.monotonic()
        killed = runs.send_signal(moments.choice(run.ranks() or [0]), signal.SIGKILL)
        code = run.wait()
        if killed and code != 0:
            break
    return run, code, time.monotonic() - begin


def stop_and_resume(tap, folder, number, ranks, settings, moments):
    name = f"{number.name}, {ranks} rank{'s' if ranks > 1 else ''}"
    data = runs.synth(os.path.join(folder, f"data-{number.name}"))
    settings = {**settings, "train.steps": ENDLESS, "checkpoint.every": 0, "metrics.every": 4,
                "optim.lr_schedule": "constant"}  # independent of train.steps
    run = Run(os.path.join(folder, number.name), data, settings).start(ranks)
    stop = 1 + moments.randrange(3)
    run.wait_for(lambda: run.metrics_line_count() >= stop)
    time.sleep(moments.random() * 0.05)
    run.process.send_signal(number)
    code, said, steps = run.wait(), run.log_text(), run.checkpoints()
    step = steps[0] if len(steps) == 1 else -1
    tap.check(code == 75 and step >= 4 and f"stopped by a signal after step {step} of {ENDLESS}" in said,
              f"{name}: exit code 75 and a checkpoint of the step it stopped at",
              f"exit code {code}, checkpoints {steps}\n{said}")
    run.settings["train.steps"] = settings["train.steps"] = step + 20
    undisturbed = Run(os.path.join(folder, f"undisturbed-{number.name}"), data, settings).must_train(ranks)
    code = run.train(ranks)
    tap.check(code == 0 and f"at step {step}" in run.log_text(), f"{name}: resumes from there", run.log_text())
    check_same_end(tap, run, undisturbed, f"{name}: stopped and resumed, it")
    tap.check(run.metrics() == undisturbed.metrics(), f"{name}: and writes the same metrics")


def test_signals(tap, folder):
    """Stopped by a signal"""
    moments = random.Random(f"{SEED} signals")
    stop_and_resume(tap, folder, signal.SIGTERM, 1, {"loss.adversarial": "wgan-gp"}, moments)
    stop_and_resume(tap, folder, signal.SIGINT, 1, {"loss.adversarial_weight": 0, "loss.r1": 0}, moments)
    if shutil.which("mpirun"):
        stop_and_resume(tap, folder, signal.SIGUSR2, 2, {}, moments)
    else:
        tap.skip("stopped on 2 ranks", "no mpirun")


def damage(path, how, moments):
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        if how == "truncated":
            file.truncate(moments.randrange(size))
            return
        place = moments.randrange(size)
        file.seek(place)
        byte = file.read(1)[0] ^ 1 << moments.randrange(8)
        file.seek(place)
        file.write(bytes([byte]))


def test_damage(tap, folder):
    """The newest checkpoint is damaged"""
    moments = random.Random(f"{SEED} damage")
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 12, "checkpoint.every": 4}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    for name in sorted(os.listdir(undisturbed.checkpoint(12))):
        for how in ("truncated", "bit-flipped"):
            run = Run(os.path.join(folder, f"{how}-{name}"), data, settings)
            shutil.copytree(undisturbed.folder, run.folder)
            damage(os.path.join(run.checkpoint(12), name), how, moments)
            code, said = run.train(), run.log_text()
            named = any("warning" in line and f"step-00000012/{name}" in line and "trying the previous checkpoint" in line
                        for line in said.splitlines())
            tap.check(code == 0 and named and "step-00000008 at step 8" in said,
                      f"{name} {how}: named, and the previous checkpoint is used", f"exit code {code}\n{said}")
            differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
            tap.check(not differs, f"{name} {how}: and the end is the same", f"different: {differs}")
    run = Run(os.path.join(folder, "all"), data, settings)
    shutil.copytree(undisturbed.folder, run.folder)
    for step in run.checkpoints():
        damage(os.path.join(run.checkpoint(step), "generator.safetensors"), "truncated", moments)
    code = run.train()
    tap.check(code == 65 and "all checkpoints are damaged" in run.log_text(), "all damaged: an error, no new start",
              f"exit code {code}\n{run.log_text()}")


def rewrite_manifest(checkpoint, change):
    """Rewrites manifest.json, changed by change(manifest), with a checksum that is right."""
    path = os.path.join(checkpoint, "manifest.json")
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    change(manifest)
    del manifest["crc32c"]
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest["crc32c"] = runs.crc32c(text.encode())
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file)


def set_version(checkpoint, version):
    rewrite_manifest(checkpoint, lambda manifest: manifest.update(version=version))


def set_augment_probability(checkpoint, value):
    path = os.path.join(checkpoint, "state.json")
    with open(path, encoding="utf-8") as file:
        state = json.load(file)
    text = json.dumps({**state, "augment_probability": value}).encode()
    with open(path, "wb") as file:
        file.write(text)
    entry = {"bytes": len(text), "crc32c": runs.crc32c(text)}
    rewrite_manifest(checkpoint, lambda manifest: manifest["files"].update({"state.json": entry}))


def test_other_version(tap, folder):
    """Checkpoints of format version 1"""
    data = runs.synth(os.path.join(folder, "data"))
    old = Run(os.path.join(folder, "old"), data, {"train.steps": 8, "checkpoint.every": 4}).must_train()
    set_version(old.checkpoint(8), 2)
    tap.check(old.train() == 0, "a rewritten manifest is read", old.log_text())  # or set_version computes another checksum
    for step in old.checkpoints():
        set_version(old.checkpoint(step), 1)

    def content():
        with open(old.path("config.yaml"), encoding="utf-8") as file:
            return sorted(os.listdir(old.path("checkpoints"))), old.last_checkpoint(), old.metrics(), file.read()

    before = content()
    sentence = (f"{old.checkpoint(8)}: was written by Celforge 0.1 (checkpoint version 1); this version reads version 2: "
                "continue training with 0.1, or start a new run")

    def refused(name, code, said):
        tap.check(code == 65 and sentence in said, f"{name}: refused, exit code 65", f"exit code {code}\n{said}")

    old.settings["train.steps"] = 12
    refused("--resume auto", old.train(), old.log_text())
    refused("--resume PATH", old.train(resume=old.checkpoint(8)), old.log_text())
    other = Run(os.path.join(folder, "other"), data, {"train.steps": 4}).must_train()
    refused("--resume PATH of version 2", old.train(resume=other.checkpoint(4)), old.log_text())
    tap.check(content() == before, "the run folder is left unchanged")
    new = Run(os.path.join(folder, "new"), data, {"train.steps": 4, "run.init": old.folder})
    refused("run.init", new.train(), new.log_text())
    for arguments in (["eval", "--checkpoint", old.folder, "--data", data], ["info", old.folder],
                      ["translate", "--checkpoint", old.folder, data, os.path.join(folder, "out")],
                      ["export", "--checkpoint", old.folder, "--format", "onnx", os.path.join(folder, "model.onnx")]):
        done = subprocess.run([runs.CELFORGE, *arguments], capture_output=True, text=True, timeout=runs.LIMIT,
                              env=runs.ENVIRONMENT, check=False)
        refused(arguments[0], done.returncode, done.stdout + done.stderr)


def test_explicit(tap, folder):
    """--resume PATH"""
    moments = random.Random(f"{SEED} explicit")
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 12, "checkpoint.every": 4}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()

    def refused(name, code, words, resume, changes=None):
        run = Run(os.path.join(folder, "refused"), data, {**settings, **(changes or {})})
        found, said = run.train(resume=resume), run.log_text()
        tap.check(found == code and words in said, f"{name}: refused, exit code {code}", f"exit code {found}\n{said}")
        tap.check(not os.path.exists(run.path("checkpoints")), f"{name}: no checkpoint written")
        shutil.rmtree(run.folder, ignore_errors=True)

    good = undisturbed.checkpoint(8)
    bad = os.path.join(folder, "bad")
    shutil.copytree(good, bad)
    damage(os.path.join(bad, "optimizer.safetensors"), "bit-flipped", moments)
    refused("a path that is not there", 74, "nowhere: ", os.path.join(folder, "nowhere"))
    refused("a folder that holds none", 65, "neither a checkpoint", folder)
    refused("a dataset", 65, 'must be "celforge checkpoint"', data)
    refused("a file", 65, "is a file", os.path.join(data, "manifest.json"))
    refused("a damaged checkpoint", 65, "bad/optimizer.safetensors", bad)
    refused("another seed", 64, "refused.yaml:3:11: run.seed: cannot change from 7 to 8 in a resumed run", good, {"run.seed": 8})
    refused("another global batch", 64, "refused.yaml:31:19: train.global_batch: cannot change from 4 to 8 in a resumed run", good,
            {"train.global_batch": 8})
    refused("other networks", 64, "set model.* to the values", good, {"model.channels": 6})
    refused("a layer less", 64, 'has tensor "block0.conv1.', good, {"model.blocks": 0})
    refused("a discriminator less", 64, 'has tensor "video.', good, {"model.video": False})
    refused("other weights", 64, "model.spectral_norm: cannot change from true to false in a resumed run", good,
            {"model.spectral_norm": False})
    refused("another dataset", 64, "resuming would mix them", good,
            {"data.path": runs.synth(os.path.join(folder, "other"), seed=2)})

    back = Run(os.path.join(folder, "back"), data, settings)
    shutil.copytree(undisturbed.folder, back.folder)
    code = back.train(resume=back.checkpoint(4))
    tap.check(code == 0 and "step-00000004 at step 4" in back.log_text(), "resumed from an older checkpoint", back.log_text())
    check_same_end(tap, back, undisturbed, "a run resumed from an older checkpoint")
    code = back.train()
    tap.check(code == 0 and "nothing to train: the checkpoint is at step 12, train.steps is 12" in back.log_text(), "a run that is done", back.log_text())
    longer = Run(back.folder, data, {**settings, "train.steps": 13})
    code = longer.train()
    tap.check(code == 0 and "was written: train.steps is 13, was 12\n" in longer.log_text(), "what has changed is named",
              longer.log_text())


def test_perceptual(tap, folder):
    """The weights of loss.perceptual"""
    data = runs.synth(os.path.join(folder, "data"))
    weights, moved, other = (os.path.join(folder, f"{name}.safetensors") for name in ("vgg19", "moved", "other"))
    runs.write_perceptual_weights(weights, 1)
    runs.write_perceptual_weights(other, 2)
    os.link(weights, moved)
    settings = {"loss.perceptual": 1e-3, "loss.perceptual_weights": weights, "optim.pretrain_steps": 1, "train.steps": 4,
                "checkpoint.every": 2, "comm.reduce": "reproducible"}
    run = Run(os.path.join(folder, "run"), data, settings).must_train()
    tap.check(all(record["loss/perceptual"] > 0 for record in run.metrics()[1:]), "each step has their loss", run.metrics())
    size = sum(len(content) for content in run.last_checkpoint().values())
    tap.check(size < 4 << 20, "checkpoints do not contain them", f"{size} bytes")

    ranks = 2 if shutil.which("mpirun") else 1
    resumed = Run(os.path.join(folder, "resumed"), data, {**settings, "loss.perceptual_weights": moved})
    code = resumed.train(ranks, resume=run.checkpoint(2))
    tap.check(code == 0 and "config has changed" not in resumed.log_text(), "the file may be moved", resumed.log_text())
    check_same_end(tap, resumed, run, f"a run that resumes with them on {ranks} ranks")
    for name, path, code, words in (("others", other, 64, "resuming would mix them"),
                                    ("a missing file", "nowhere", 74, "loss.perceptual_weights: nowhere: cannot open")):
        refused = Run(os.path.join(folder, "refused"), data, {**settings, "loss.perceptual_weights": path})
        found, said = refused.train(ranks, resume=run.checkpoint(2)), refused.log_text()
        tap.check(found == code and said.count(words) == 1, f"{name}: refused, exit code {code}", f"exit code {found}\n{said}")


def refuse_resume(tap, name, run, checkpoint, words, expected=64):
    code, said = run.train(resume=checkpoint), run.log_text()
    tap.check(code == expected and words in said, f"{name}: refused, exit code {expected}", f"exit code {code}\n{said}")


def test_unpaired(tap, folder):
    """Unpaired data, PatchNCE and adaptive augmentation"""
    moments = random.Random(f"{SEED} unpaired")
    data, targets, others = (runs.synth(os.path.join(folder, name), seed) for name, seed in (("data", 1), ("targets", 2), ("others", 3)))
    settings = {**runs.UNPAIRED, "data.target_path": targets, "train.steps": 30, "checkpoint.every": 3}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    probabilities = [record["augment/probability"] for record in undisturbed.metrics()]
    tap.check(len(set(probabilities)) > 3 and min(probabilities) >= 0 and max(probabilities) < 0.8 + 1e-6,
              "the probability of augmentation moves", probabilities)
    last = undisturbed.last_checkpoint()
    tap.check("projection.safetensors" in last and 0 <= json.loads(last["state.json"])["augment_probability"] <= 0.8,
              "checkpoints hold the projections and the probability", sorted(last))

    run, kills = Run(os.path.join(folder, "killed"), data, settings), 0
    while kills < 4 and start_and_kill(run, moments, False):
        kills += 1
    run.must_train()
    check_same_end(tap, run, undisturbed, f"unpaired: a run killed {kills} times")
    tap.check(kills > 0 and run.metrics() == undisturbed.metrics(), "unpaired: and writes the same metrics, with each step once")

    shutil.move(targets, targets + "-moved")
    moved = Run(os.path.join(folder, "moved"), data, {**settings, "data.target_path": targets + "-moved"})
    code = moved.train(resume=undisturbed.checkpoint(27))
    tap.check(code == 0 and "config has changed" not in moved.log_text(), "the targets may be moved", moved.log_text())
    check_same_end(tap, moved, undisturbed, "a run resumed with moved targets")

    checkpoint = undisturbed.checkpoint(27)
    refused = Run(os.path.join(folder, "refused"), data, {**settings, "data.target_path": others})
    refuse_resume(tap, "other targets", refused, checkpoint, f"but {others} holds dataset ")
    refused.settings["data.target_path"] = ""
    refuse_resume(tap, "pairs", refused, checkpoint, "was trained on unpaired data, but this config has pairs (data.target_path)")
    paired = Run(os.path.join(folder, "paired"), data, {**settings, "data.target_path": "", "train.steps": 3}).must_train()
    refused.settings["data.target_path"] = others
    refuse_resume(tap, "unpaired data", refused, paired.checkpoint(3),
                  "was trained on paired data, but this config has unpaired (data.target_path)")

    without = {**settings, "data.target_path": others, "loss.patch_nce": 0, "train.steps": 3}
    bare = Run(os.path.join(folder, "bare"), data, without).must_train()
    bare.settings |= {"loss.patch_nce": 1, "train.steps": 6}
    refuse_resume(tap, "PatchNCE switched on", bare, bare.checkpoint(3),
                  f"loss.patch_nce: cannot be switched on in a resumed run: {bare.checkpoint(3)} has no projection.safetensors; "
                  f"set it to 0, or start a new run from these weights with run.init: {bare.checkpoint(3)}")
    started = Run(os.path.join(folder, "started"), data, {**bare.settings, "run.dir": os.path.join(folder, "started"),
                                                          "run.init": bare.checkpoint(3)})
    code = started.train()
    tap.check(code == 0, "and a new run does start from it with run.init", started.log_text())
    l1 = {"loss.adversarial_weight": 0, "loss.l1": 1, "loss.r1": 0, "train.steps": 3}
    alone = Run(os.path.join(folder, "alone"), data, l1).must_train()
    alone.settings["loss.adversarial_weight"] = 0.1
    refuse_resume(tap, "discriminators switched on", alone, alone.checkpoint(3),
                  f"loss.adversarial_weight: cannot be switched on in a resumed run: {alone.checkpoint(3)} has no discriminator")

    fixed = Run(os.path.join(folder, "fixed"), data, {**moved.settings, "run.dir": os.path.join(folder, "fixed"), "augment.mode": "fixed",
                                                      "augment.probability": 0.9})
    fixed.train(resume=checkpoint)
    refused.settings["data.target_path"] = targets + "-moved"
    set_augment_probability(checkpoint, 7.5)
    refuse_resume(tap, "an impossible probability", refused, checkpoint, "augment_probability is 7.5, expected 0 to 1", 65)
    set_augment_probability(checkpoint, 0.5)
    rewrite_manifest(checkpoint, lambda manifest: manifest.pop("dataset_uuid"))
    refuse_resume(tap, "a manifest without the dataset", refused, checkpoint, "dataset_uuid: missing", 65)
    tap.check(all(abs(record["augment/probability"] - 0.9) < 1e-6 for record in fixed.metrics()[-3:]),
              "a resumed run that no longer adapts has its own probability", fixed.log_text())


def test_folder(tap, folder):
    """A second run in the same folder, and a dataset that was replaced"""
    data = runs.synth(os.path.join(folder, "data"))
    first = Run(os.path.join(folder, "run"), data, {"train.steps": 1000000, "checkpoint.every": 4}).start()
    first.wait_for(lambda: len(first.checkpoints()) > 1)
    second = Run(first.folder, data, {"train.steps": 20})
    second.log += "-second"
    code = second.train()
    tap.check(code == 64 and "another process is training in this folder" in second.log_text(), "a second run in a folder is refused",
              f"exit code {code}\n{second.log_text()}")
    tap.check(first.running(), "and the first continues", first.log_text())
    first.kill()
    code = second.train(resume="none")
    tap.check(code == 64 and "--resume auto" in second.log_text(), "checkpoints of an earlier run are not overwritten",
              f"exit code {code}\n{second.log_text()}")
    steps = second.checkpoints()
    shutil.rmtree(data)
    runs.synth(data, seed=2)
    code = second.train()
    tap.check(code == 64 and "resuming would mix them" in second.log_text(), "a dataset changed under the run is refused",
              f"exit code {code}\n{second.log_text()}")
    tap.check(second.checkpoints() == steps, "and the checkpoints are left alone")


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_f32_kills, test_bf16_kills, test_world_sizes, test_signals, test_damage,
           test_other_version, test_explicit, test_perceptual, test_unpaired, test_folder])
