#!/usr/bin/python3
"""Optical flow against OpenCV's: moving textures, rendered clips, and pictures of every small size."""
import os
import sys

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../oracle"))
import support  # noqa: E402
import packages  # noqa: E402

cv2 = packages.opencv()
PROGRAM = os.path.join(support.BUILD, "tests/oracle/flow")
TOLERANCE = 1e-3  # pixels


def texture(height, width, seed, smoothness):
    """f32 [height + 40, width + 40], from 0 to 255."""
    noise = np.random.RandomState(seed).uniform(size=(height + 40, width + 40)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), smoothness), None, 0, 255, cv2.NORM_MINMAX)


def moved(picture, height, width, matrix):
    """The middle of a texture behind an affine map of its places."""
    places = np.float32([[1, 0, 20], [0, 1, 20]]) + np.float32(matrix)
    seen = cv2.warpAffine(picture, places, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.rint(seen).astype(np.uint8)


def film(height, width, matrix, seed=1, smoothness=2.0):
    picture = texture(height, width, seed, smoothness)
    still = np.zeros((2, 3))
    return np.stack([moved(picture, height, width, m) for m in (still, np.array(matrix), still)])


def flows(greys, threads=1):
    count, height, width = greys.shape
    out = support.run(PROGRAM, str(height), str(width), str(threads), input=greys.tobytes())
    return np.frombuffer(out, np.float32).reshape(count - 1, height, width, 2)


def opencv_flows(greys):
    return np.stack([cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
                     for a, b in zip(greys, greys[1:])])


def distance(found, wanted):
    return np.linalg.norm(found.astype(np.float64) - wanted, axis=-1)


def compare(tap, name, greys):
    found, wanted = flows(greys), opencv_flows(greys)
    far = distance(found, wanted)
    longest = np.linalg.norm(wanted, axis=-1).max()
    tap.check(found.shape == wanted.shape and far.max() <= TOLERANCE, f"{name}: OpenCV's flow",
              f"at most {far.max():.1e} apart, {far.mean():.1e} on average; it reaches {longest:.1f} pixels")


def compare_flat(tap, name, greys):
    """Of flat colours between straight lines: along a line nearly every displacement fits, and the last bit of f32
    decides between them. OpenCV with its vector code and without is as far apart there."""
    found, wanted = flows(greys), opencv_flows(greys)
    cv2.setUseOptimized(False)
    plain = opencv_flows(greys)
    cv2.setUseOptimized(True)
    far, own = distance(found, wanted), distance(plain, wanted)
    tap.check(far.mean() <= TOLERANCE and far.max() <= max(TOLERANCE, 10 * own.max()), f"{name}: OpenCV's flow",
              f"{far.mean():.1e} apart on average, at most {far.max():.1e}; OpenCV's two {own.mean():.1e} and {own.max():.1e}")


def check_textures(tap):
    """By translation, turning and growing, on four, three, two and one levels, with odd sides."""
    for name, height, width, matrix in (
            ("translation, 640x272", 272, 640, [[0, 0, 3.3], [0, 0, -1.6]]),
            ("a long way, 320x256", 256, 320, [[0, 0, 11], [0, 0, 9]]),
            ("turning, 321x259", 259, 321, [[0, 0.02, -2], [-0.02, 0, 3]]),
            ("growing, 131x135", 135, 131, [[0.03, 0, -2], [0, 0.03, -2]]),
            ("fractions, 67x65", 65, 67, [[0, 0, 0.25], [0, 0, 0.5]]),
            ("small, 47x33", 33, 47, [[0, 0, 1], [0, 0, 0]])):
        compare(tap, name, film(height, width, matrix))
    greys = film(100, 90, [[0, 0, 2], [0, 0, 1]])
    tap.check(np.array_equal(flows(greys), flows(greys, 3)), "three threads give the bytes of one")
    rough = film(96, 128, [[0, 0, 1], [0, 0, 2]], smoothness=0.4)
    compare(tap, "noise, 128x96", rough)


def check_tiny(tap):
    """Sides shorter than windows and borders, down to a pixel."""
    worst, sizes = 0, [(h, w) for h in (1, 2, 5, 8, 9, 10, 11, 16) for w in (1, 3, 8, 9, 10, 31)]
    for height, width in sizes:
        greys = film(height, width, [[0, 0, 1], [0, 0, 0.5]], seed=height * 100 + width)
        worst = max(worst, np.abs(flows(greys) - opencv_flows(greys)).max())
    tap.check(worst <= TOLERANCE, f"{len(sizes)} sizes from 1x1 to 31x16", f"at most {worst:.1e} apart")


def check_rendered(tap, root):
    """Clips of `celforge synth`: film and drawing."""
    support.synth(f"{root}/data", 2, 6, "192x160")
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        sides = {"film": shard["clips/source"][:], "drawing": shard["clips/target"][:]}
    for name, clips in sides.items():
        for i, clip in enumerate(clips):
            greys = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip])
            (compare if name == "film" else compare_flat)(tap, f"{name} {i}, 192x160", greys)


def main():
    tap = support.Tap()
    if not cv2:
        tap.skip("optical flow against OpenCV's", "pip cannot fetch opencv-python-headless")
        tap.end()
    with support.scratch() as root:
        check_textures(tap)
        check_tiny(tap)
        check_rendered(tap, root)
    tap.end()


if __name__ == "__main__":
    main()
