#!/usr/bin/python3
"""eval's scores against NumPy's on the same frames, and against FFmpeg's psnr filter.

The frames come out of the program by other doors: the clips through h5py, the outputs through
translate on folders of frames.
"""
import json
import os
import shutil

import h5py
import numpy as np
from support import Tap, celforge, run, scratch, synth, train

FRAMES, HEIGHT, WIDTH, CLIPS = 3, 40, 48, 3
SETTINGS = {
    "model.channels": 4, "model.blocks": 1, "loss.adversarial_weight": 0,
    "optim.generator_rate": 0.01, "optim.schedule": "constant", "optim.ema": 0.5,
    "train.steps": 12, "train.global_batch": 2, "checkpoint.every": 0, "samples.every": 0,
}


def write_frames(folder, frames):
    os.makedirs(folder)
    run("ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}",
        "-i", "-", "-start_number", "0", f"{folder}/%06d.png", input=frames.tobytes())


def read_frames(folder, count):
    raw = run("ffmpeg", "-v", "error", "-start_number", "0", "-i", f"{folder}/%06d.png",
              "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(count, HEIGHT, WIDTH, 3)


def translate(root, checkpoint, frames, name):
    source, target = f"{root}/{name}-in", f"{root}/{name}-out"
    write_frames(source, frames)
    celforge("translate", "--checkpoint", checkpoint, source, target)
    return read_frames(target, len(frames))


def luma(frames):
    return frames.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((luma(a) - luma(b)) ** 2))


def filtered(pictures):
    """Every valid 11 x 11 window's weighted mean: a plain sum over the window's places."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    rows, columns = pictures.shape[-2] - 10, pictures.shape[-1] - 10
    total = np.zeros(pictures.shape[:-2] + (rows, columns))
    for y in range(11):
        for x in range(11):
            total += weights[y, x] * pictures[..., y:y + rows, x:x + columns]
    return total


def ssim(a, b):
    a, b = luma(a), luma(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = filtered(a), filtered(b)
    var_a, var_b = filtered(a * a) - mean_a**2, filtered(b * b) - mean_b**2
    both = filtered(a * b) - mean_a * mean_b
    return np.mean((2 * mean_a * mean_b + c1) * (2 * both + c2)
                   / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))


def temporal(a, b):
    """Clips [N,T,H,W,3]; differences between frames of a clip alone."""
    return np.mean(np.abs(np.diff(luma(a), axis=1) - np.diff(luma(b), axis=1)))


def check_scores(tap, root, folder):
    """Every number of eval, from frames that came another way."""
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        source, target = shard["clips/source"][:], shard["clips/target"][:]
    output = np.stack([translate(root, folder, source[i], f"clip{i}") for i in range(CLIPS)])
    alone = np.stack([translate(root, folder, source[i, t:t + 1], f"frame{i}-{t}")[0]
                      for i in range(CLIPS) for t in range(FRAMES)]).reshape(output.shape)
    celforge("eval", "--checkpoint", folder, "--data", f"{root}/data", "--json", f"{root}/s.json")
    with open(f"{root}/s.json", encoding="utf-8") as file:
        scores = json.load(file)
    tap.check(scores["clips"] == CLIPS and scores["frames"] == CLIPS * FRAMES, "clips and frames")
    measures = {"psnr": (psnr, 1e-6), "ssim": (ssim, 1e-9), "temporal": (temporal, 1e-9)}
    for name, frames in (("input", source), ("output", output), ("frame", alone)):
        for measure, (score, tolerance) in measures.items():
            found, expected = scores[f"{measure}_{name}"], score(frames, target)
            tap.check(abs(found - expected) <= tolerance, f"{measure}_{name} is NumPy's",
                      f"{found:.9f}, NumPy {expected:.9f}")
    tap.check(abs(scores["psnr_output"] - scores["psnr_input"]) > 0.1
              and abs(scores["psnr_output"] - scores["psnr_frame"]) > 1e-4,
              "the three candidates differ")


def check_subset(tap, root, folder):
    """--clips N scores the first N."""
    celforge("eval", "--checkpoint", folder, "--data", f"{root}/data", "--clips", "1",
             "--json", f"{root}/first.json")
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        expected = psnr(shard["clips/source"][0], shard["clips/target"][0])
    with open(f"{root}/first.json", encoding="utf-8") as file:
        scores = json.load(file)
    tap.check(scores["clips"] == 1 and abs(scores["psnr_input"] - expected) < 1e-6,
              "--clips 1 scores the first clip")


def ffmpeg_psnr_y(first, second):
    """The psnr filter's average of the Y plane, in dB."""
    log = run("ffmpeg", "-v", "error", "-i", first, "-i", second, "-lavfi",
              "psnr=stats_file=-", "-f", "null", "-").decode()
    errors = [float(word.split(":")[1]) for line in log.splitlines() for word in line.split()
              if word.startswith("mse_y:")]
    return 10 * np.log10(255**2 / np.mean(errors))


def check_ffmpeg(tap, root, folder):
    """The translated video beside its source. Video luma spans 16 to 235, so FFmpeg's errors are
    219/255 of those in full range."""
    film = f"{root}/film.mp4"
    celforge("synth", film, "--frames", "12", "--size", f"{WIDTH}x{HEIGHT}", "--seed", "5")
    celforge("pack", f"{root}/film", "--source", film, "--target", film, "--frames", "12")
    celforge("eval", "--checkpoint", folder, "--data", f"{root}/film", "--json", f"{root}/f.json")
    celforge("translate", "--checkpoint", folder, "--quality", "1", film, f"{root}/out.mp4")
    with open(f"{root}/f.json", encoding="utf-8") as file:
        scores = json.load(file)
    found = ffmpeg_psnr_y(f"{root}/out.mp4", film) - 20 * np.log10(255 / 219)
    tap.check(abs(found - scores["psnr_output"]) < 0.3, "FFmpeg's psnr of the video agrees",
              f"eval {scores['psnr_output']:.3f} dB, FFmpeg {found:.3f} dB")


def main():
    tap = Tap()
    if not shutil.which("ffmpeg"):
        print("ok 1 - scores # SKIP no ffmpeg")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with scratch() as root:
        synth(f"{root}/data", CLIPS, FRAMES, f"{WIDTH}x{HEIGHT}")
        folder = train(f"{root}/run", {"data.path": f"{root}/data", **SETTINGS})
        check_scores(tap, root, folder)
        check_subset(tap, root, folder)
        check_ffmpeg(tap, root, folder)
    tap.end()


if __name__ == "__main__":
    main()
