#!/usr/bin/python3
"""Optical flow against OpenCV: moving textures, rendered clips, and very small images."""
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


def moved(image, height, width, matrix):
    """The middle of a texture, sampled through an affine map."""
    affine = np.float32([[1, 0, 20], [0, 1, 20]]) + np.float32(matrix)
    sampled = cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.rint(sampled).astype(np.uint8)


def video(height, width, matrix, seed=1, smoothness=2.0):
    image = texture(height, width, seed, smoothness)
    still = np.zeros((2, 3))
    return np.stack([moved(image, height, width, m) for m in (still, np.array(matrix), still)])


def flows(greys, threads=1):
    count, height, width = greys.shape
    out = support.run(PROGRAM, str(height), str(width), str(threads), input=greys.tobytes())
    return np.frombuffer(out, np.float32).reshape(count - 1, height, width, 2)


def opencv_flows(greys):
    return np.stack([cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
                     for a, b in zip(greys, greys[1:])])


def endpoint_error(found, expected):
    return np.linalg.norm(found.astype(np.float64) - expected, axis=-1)


def compare(tap, name, greys):
    found, expected = flows(greys), opencv_flows(greys)
    errors = endpoint_error(found, expected)
    longest = np.linalg.norm(expected, axis=-1).max()
    tap.check(found.shape == expected.shape and errors.max() <= TOLERANCE, f"{name}: equals OpenCV",
              f"endpoint error: largest {errors.max():.1e}, mean {errors.mean():.1e}; longest flow {longest:.1f} pixels")


def compare_flat(tap, name, greys):
    """For flat colours between straight lines: along a line many displacements fit, and f32 rounding decides between them.
    OpenCV with and without its vector code differs just as much there."""
    found, expected = flows(greys), opencv_flows(greys)
    cv2.setUseOptimized(False)
    plain = opencv_flows(greys)
    cv2.setUseOptimized(True)
    errors, own = endpoint_error(found, expected), endpoint_error(plain, expected)
    tap.check(errors.mean() <= TOLERANCE and errors.max() <= max(TOLERANCE, 10 * own.max()), f"{name}: equals OpenCV",
              f"endpoint error: mean {errors.mean():.1e}, largest {errors.max():.1e}; within OpenCV {own.mean():.1e} and {own.max():.1e}")


def check_textures(tap):
    """Translation, rotation and scaling on four, three, two and one pyramid levels, with odd sides."""
    for name, height, width, matrix in (
            ("translation, 640x272", 272, 640, [[0, 0, 3.3], [0, 0, -1.6]]),
            ("large translation, 320x256", 256, 320, [[0, 0, 11], [0, 0, 9]]),
            ("rotation, 321x259", 259, 321, [[0, 0.02, -2], [-0.02, 0, 3]]),
            ("scaling, 131x135", 135, 131, [[0.03, 0, -2], [0, 0.03, -2]]),
            ("subpixel translation, 67x65", 65, 67, [[0, 0, 0.25], [0, 0, 0.5]]),
            ("small, 47x33", 33, 47, [[0, 0, 1], [0, 0, 0]])):
        compare(tap, name, video(height, width, matrix))
    greys = video(100, 90, [[0, 0, 2], [0, 0, 1]])
    tap.check(np.array_equal(flows(greys), flows(greys, 3)), "three threads give the same bytes as one")
    rough = video(96, 128, [[0, 0, 1], [0, 0, 2]], smoothness=0.4)
    compare(tap, "noise, 128x96", rough)


def check_tiny(tap):
    """Sides shorter than the window and the border, down to one pixel."""
    worst, sizes = 0, [(h, w) for h in (1, 2, 5, 8, 9, 10, 11, 16) for w in (1, 3, 8, 9, 10, 31)]
    for height, width in sizes:
        greys = video(height, width, [[0, 0, 1], [0, 0, 0.5]], seed=height * 100 + width)
        worst = max(worst, np.abs(flows(greys) - opencv_flows(greys)).max())
    tap.check(worst <= TOLERANCE, f"{len(sizes)} sizes from 1x1 to 31x16", f"largest difference {worst:.1e}")


def check_rendered(tap, root):
    """Clips of celforge synth: source and target."""
    support.synth(f"{root}/data", 2, 6, "192x160")
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        sides = {"source": shard["clips/source"][:], "target": shard["clips/target"][:]}
    for name, clips in sides.items():
        for i, clip in enumerate(clips):
            greys = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip])
            (compare if name == "source" else compare_flat)(tap, f"{name} {i}, 192x160", greys)


def main():
    tap = support.Tap()
    if not cv2:
        tap.skip("optical flow against OpenCV", "pip cannot fetch opencv-python-headless")
        tap.end()
    with support.scratch() as root:
        check_textures(tap)
        check_tiny(tap)
        check_rendered(tap, root)
    tap.end()


if __name__ == "__main__":
    main()
