#!/usr/bin/python3
"""Whole training runs on a GPU: a resumed run leaves the same bytes as an uninterrupted one, checkpoints move between CPU
and GPU, two ranks leave the same bytes as one, over MPI and NCCL."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

STEPS = 12
CUDA = {"train.device": "cuda", "cuda.deterministic": True, "train.steps": STEPS, "checkpoint.every": 4,
        "model.channels": 8, "comm.reduce": "reproducible"}


def weights(run):
    """The tensor files of a run's last checkpoint, without config and state, which name the device."""
    return {name: data for name, data in run.last_checkpoint().items() if name.endswith(".safetensors")}


def train(folder, name, data, ranks=1, **settings):
    settings = {**CUDA, **{key.replace("__", "."): value for key, value in settings.items()}}
    run = runs.Run(os.path.join(folder, name), data, settings).must_train(ranks, "none")
    assert "emulator:" not in run.log_text(), run.log_text()  # an error of the emulator that did not end the run
    return run


def check_same_weights(tap, left, right, name):
    different = runs.difference(weights(left), weights(right))
    tap.check(weights(left) and not different, name, f"different: {different}")


def test_resume(tap, folder):
    """A resumed run leaves the bytes of an uninterrupted one"""
    data = runs.synth(os.path.join(folder, "data"))
    for precision in ("f32", "bf16"):
        whole = train(folder, "whole-" + precision, data, train__precision=precision)
        cut = train(folder, "cut-" + precision, data, train__precision=precision)
        for step in cut.checkpoints():
            if step > 4:
                shutil.rmtree(cut.checkpoint(step))
        cut.must_train(1, "auto")
        check_same_weights(tap, whole, cut, f"{precision}: a run resumed after step 4 leaves the bytes of an uninterrupted one")


def test_devices(tap, folder):
    """A checkpoint moves between CPU and GPU"""
    data = runs.synth(os.path.join(folder, "data"))
    run = train(folder, "cpu", data, train__device="cpu", train__steps=STEPS)
    alone = run.metrics()[-1]
    moving = train(folder, "moving", data, train__device="cpu")
    for step in moving.checkpoints():
        if step > 4:
            shutil.rmtree(moving.checkpoint(step))
    moving.settings["train.device"] = "cuda"
    moving.must_train(1, "auto")
    for step in moving.checkpoints():
        if step > 8:
            shutil.rmtree(moving.checkpoint(step))
    moving.settings["train.device"] = "cpu"
    moving.must_train(1, "auto")
    moved = moving.metrics()[-1]
    worst = max(abs(moved[key] - alone[key]) / (abs(alone[key]) + 1e-3) for key in alone if key.startswith("loss/"))
    print(f"# largest relative deviation of the losses of step {STEPS}: {worst:.2g}")
    tap.check(moved["step"] == STEPS and worst < 1e-2, "CPU, then GPU, then CPU: losses within 1 % of the CPU alone",
              f"{moved}\n{alone}")


def test_perceptual(tap, folder):
    """The perceptual loss on the GPU matches the CPU's"""
    settings = {"loss__perceptual": 1e-3, "loss__adversarial_weight": 0, "loss__r1": 0, "optim__pretrain_steps": 0, "data__frames": 1,
                "data__crop_height": 18, "data__crop_width": 17, "train__global_batch": 1, "train__steps": 2}
    settings["loss__perceptual_weights"] = runs.write_perceptual_weights(os.path.join(folder, "vgg19.safetensors"), 1)
    data = runs.synth(os.path.join(folder, "data"))
    for precision, limit in (("f32", 1e-4), ("bf16", 3e-2)):
        cpu, gpu = (train(folder, f"{device}-{precision}", data, train__device=device, train__precision=precision, **settings)
                    for device in ("cpu", "cuda"))
        worst = max(abs(ours[key] / theirs[key] - 1) for ours, theirs in zip(gpu.metrics(), cpu.metrics())
                    for key in ("loss/perceptual", "grad_norm/g"))
        tap.check(worst < limit, f"{precision}: loss and gradient norm of two steps within {limit}", f"relative deviation {worst}")
        print(f"# {precision}: relative deviation {worst:.2g}")


def test_ranks(tap, folder):
    """Two ranks and NCCL leave the bytes of one rank"""
    data = runs.synth(os.path.join(folder, "data"))
    one = train(folder, "one", data)
    nccl = train(folder, "nccl", data, comm__backend="nccl")
    check_same_weights(tap, one, nccl, "one rank over NCCL leaves the bytes of one rank without communication")
    plain = train(folder, "plain", data, comm__backend="nccl", cuda__graphs=False, comm__overlap=False)
    check_same_weights(tap, one, plain, "one rank over NCCL without overlap and without CUDA graphs leaves the same bytes")
    if not shutil.which("mpirun"):
        tap.skip("two ranks share a GPU", "mpirun not found")
        return
    two = train(folder, "two", data, 2, comm__backend="mpi")
    check_same_weights(tap, one, two, "two ranks on one GPU over MPI leave the bytes of one rank")
    several = runs.Run(os.path.join(folder, "several"), data, {**CUDA, "comm.backend": "nccl"})
    code = several.train(2, "none")
    if code == 64 and "share GPU" in several.log_text():
        tap.check(True, "two ranks on one GPU over NCCL are an error that names the GPU")
        runs.ENVIRONMENT["EMULATOR_DEVICES"] = "2"  # has no effect on a real GPU
        code = several.train(2, "none")
    if code == 64 and "share GPU" in several.log_text():
        tap.skip("two ranks over NCCL", "needs two GPUs")
        return
    tap.check(code == 0, "two ranks over NCCL train without error", f"exit code {code}\n{several.log_text()}")
    check_same_weights(tap, one, several, "two ranks over NCCL leave the bytes of one rank")
    again = [train(folder, f"fast-{i}", data, 2, comm__backend="nccl", comm__reduce="fast", train__steps=4) for i in (1, 2)]
    check_same_weights(tap, *again, "two runs with the fast reduction leave the same bytes")


def test_commands(tap, folder):
    """eval prints the same scores on CPU and GPU"""
    data = runs.synth(os.path.join(folder, "data"))
    run = train(folder, "trained", data)
    scores = {}
    for device in ("cpu", "cuda"):
        out = subprocess.run([runs.CELFORGE, "eval", "--checkpoint", run.folder, "--data", data, "--device", device, "--no-classifier"],
                             capture_output=True, timeout=runs.LIMIT, env=runs.ENVIRONMENT, text=True, check=True)
        scores[device] = out.stdout.splitlines()[-5:]
    tap.check(scores["cpu"] == scores["cuda"], "eval prints the same scores on CPU and GPU", scores)


if __name__ == "__main__":
    runs.main_on_gpu([test_resume, test_devices, test_perceptual, test_ranks, test_commands])
