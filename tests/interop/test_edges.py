#!/usr/bin/python3
"""Edge-smoothed targets (CartoonGAN's negatives) against OpenCV's Canny, dilate and GaussianBlur: equal bytes."""
import os
import sys

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../oracle"))
import support  # noqa: E402
import packages  # noqa: E402

cv2 = packages.opencv()
PROGRAM = os.path.join(support.BUILD, "tests/oracle/edges")


def smoothed(frames):
    count, height, width, _ = frames.shape
    out = support.run(PROGRAM, str(height), str(width), input=np.ascontiguousarray(frames).tobytes())
    return np.frombuffer(out, np.uint8).reshape(count, height, width, 3)


def edges(frame):
    return cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 100, 200)


def opencv_smoothed(frame):
    region = cv2.dilate(edges(frame), np.ones((5, 5), np.uint8)) != 0
    blurred = cv2.GaussianBlur(frame, (5, 5), 0)
    return np.where(region[..., None], blurred, frame)


def compare(tap, name, frames):
    found, expected = smoothed(frames), np.stack([opencv_smoothed(frame) for frame in frames])
    wrong = int((found != expected).any(axis=-1).sum())
    share = np.mean([edges(frame) != 0 for frame in frames])
    changed = (expected != frames).any(axis=-1).mean()
    tap.check(found.shape == frames.shape and wrong == 0, f"{name}: equals OpenCV",
              f"{wrong} of {frames[..., 0].size} pixels differ; edges {share:.3f}, changed {changed:.3f}")
    return share


def noise(count, height, width, deviation, seed):
    """Smooth random frames: with a small deviation nearly every pixel is a maximum, with a large one few are."""
    random = np.random.RandomState(seed)
    frames = random.uniform(size=(count, height, width, 3)).astype(np.float32)
    if deviation:
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in frames])
    frames -= frames.min()
    return np.rint(frames * (255 / max(frames.max(), 1e-6))).astype(np.uint8)


def faint(contrast, seed):
    """Noise whose gradients lie around the thresholds: where edges begin and end depends on single pixels."""
    frames = noise(24, 64, 64, 1.5, seed).astype(np.float64)
    return np.rint(128 + (frames - 128) * contrast).astype(np.uint8)


def drawing(height, width):
    """Flat shapes with ink lines in every direction, and gradients on both sides of the thresholds."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:] = np.linspace(0, 255, width)[None, :, None]
    for i in range(24):
        angle = np.pi * i / 24
        end = (int(width / 2 + width * np.cos(angle)), int(height / 2 + height * np.sin(angle)))
        cv2.line(frame, (width // 2, height // 2), end, (10 * i, 255 - 10 * i, 5 * i), 1 + i % 3)
    for i in range(12):  # steps in grey by 10 to 120 levels
        frame[4:20, 10 * i:10 * i + 6] = 10 * (i + 1)
    return frame


def check_small(tap):
    """Sides below the window of the blur, down to one pixel."""
    sizes = [(h, w) for h in (1, 2, 3, 4, 5, 9) for w in (1, 2, 3, 5, 8, 17)]
    wrong = 0
    for height, width in sizes:
        frames = noise(3, height, width, 0, height * 100 + width)
        wrong += sum(not np.array_equal(a, opencv_smoothed(b)) for a, b in zip(smoothed(frames), frames))
    tap.check(wrong == 0, f"{len(sizes)} sizes from 1x1 to 17x9", f"{wrong} frames differ")


def main():
    tap = support.Tap()
    if not cv2:
        tap.skip("edge smoothing against OpenCV", "pip cannot fetch opencv-python-headless")
        tap.end()
    cv2.ipp.setUseIPP(False)  # Intel's closed library has another Canny
    shares = [compare(tap, f"noise of deviation {deviation}, {width}x{height}", noise(4, height, width, deviation, 7 + height))
              for deviation, height, width in ((0, 61, 83), (0.7, 128, 128), (1.5, 96, 160), (3, 272, 640), (6, 101, 99))]
    tap.check(min(shares) < 0.02 and max(shares) > 0.05, "there are frames with few and with many edges", str(shares))
    for i, contrast in enumerate((0.25, 0.35, 0.45, 0.6, 0.8)):
        compare(tap, f"noise with {contrast:g} of the contrast", faint(contrast, i))
    compare(tap, "a drawing, 320x240", drawing(240, 320)[None])
    flat = np.full((1, 40, 50, 3), 200, np.uint8)
    tap.check(np.array_equal(smoothed(flat), flat), "a flat frame is unchanged")
    check_small(tap)
    with support.scratch() as root:
        support.synth(f"{root}/data", 3, 4, "192x160")
        with h5py.File(f"{root}/data/shard-00000.h5") as shard:
            for side in ("source", "target"):
                compare(tap, f"rendered {side}s, 192x160", shard[f"clips/{side}"][:].reshape(-1, 160, 192, 3))
    tap.end()


if __name__ == "__main__":
    main()
