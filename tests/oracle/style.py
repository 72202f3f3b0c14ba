"""The scores of style and content (trainer/eval) in NumPy and OpenCV, from their definitions in docs/scores.md.

OpenCV's module is an argument where it is used."""
import os
import re
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))
from reference_random import philox  # noqa: E402

LUMA = np.array([299, 587, 114])


# --- Lines and flat areas -----------------------------------------------------------------------------

def shifted(image, dy, dx):
    """The image moved by a vector; positions outside take the value of the edge."""
    rows = np.clip(np.arange(image.shape[0]) + dy, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) + dx, 0, image.shape[1] - 1)
    return image[rows][:, columns]


def lines(cv2, frame):
    luma = (frame.astype(np.float64) @ LUMA) / 1000
    weights = cv2.getGaussianKernel(7, 0.7)
    smooth = cv2.sepFilter2D(luma, -1, weights, weights, borderType=cv2.BORDER_REPLICATE)
    ink = np.zeros(luma.shape, bool)
    for dy, dx in ((0, 2), (0, 4), (2, 0), (4, 0), (1, 1), (3, 3), (1, -1), (3, -3)):
        side = np.minimum(shifted(smooth, dy, dx), shifted(smooth, -dy, -dx))
        ink |= (side - smooth >= 16) & (smooth <= 0.65 * side)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= 8
    kept[0] = False
    return kept[labels]


def flats(cv2, frame):
    luma = (frame.astype(np.int64) @ LUMA).astype(np.float32)
    window = np.ones((5, 5), np.uint8)
    return cv2.dilate(luma, window) - cv2.erode(luma, window) <= 2000


def match(cv2, found, target):
    """Precision, recall and F1 of masks [N,H,W], with a tolerance of a pixel."""
    grown = lambda masks: np.stack([cv2.dilate(m.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for m in masks])
    precision = (found & grown(target)).sum() / found.sum()
    recall = (target & grown(found)).sum() / target.sum()
    return precision, recall, 2 * precision * recall / (precision + recall)


# --- Sliced Wasserstein distance ----------------------------------------------------------------------

def scores_purpose():
    """The number of RANDOM_SCORES, from the header."""
    with open(os.path.join(ROOT, "base/random.h"), encoding="utf-8") as file:
        body = re.search(r"typedef enum RandomPurpose \{(.*?)\}", file.read(), re.S).group(1)
    return re.findall(r"\bRANDOM_\w+", body).index("RANDOM_SCORES") + 1


class Stream:
    """base/random.h's random_stream of the purpose RANDOM_SCORES."""

    def __init__(self, seed, index, subindex):
        self.key = philox((seed, 0, scores_purpose(), 0), (0, 0))[:2]
        self.rest, self.block, self.words = (subindex, index, 0), 0, []

    def word(self):
        if not self.words:
            self.words = list(philox((self.block, *self.rest), self.key))
            self.block += 1
        return self.words.pop(0)

    def below(self, bound):
        rejected = (1 << 64) % bound
        while True:
            product = (self.word() << 32 | self.word()) * bound
            if product & (1 << 64) - 1 >= rejected:
                return product >> 64

    def normals(self, count):
        out = []
        while len(out) < count:
            radius = np.sqrt(-2 * np.log((self.word() + 1) / 2**32))
            angle = 2 * np.pi * self.word() / 2**32
            out += [radius * np.cos(angle), radius * np.sin(angle)]
        return np.array(out[:count])


def filtered(image, scale=1):
    """The binomial filter along rows and columns of [H,W,C], borders mirrored without the edge."""
    for axis in (0, 1):
        padding = [(2, 2) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, padding, mode="reflect")
        size = image.shape[axis]
        image = sum(scale * w / 16 * padded.take(range(k, k + size), axis) for k, w in enumerate((1, 4, 6, 4, 1)))
    return image


def pyramid(image):
    levels, image = [], image.astype(np.float64)
    while True:
        half = filtered(image)[::2, ::2]
        if min(half.shape[:2]) < 16:
            return levels + [image]
        spread = np.zeros(image.shape)
        spread[::2, ::2] = half
        levels.append(image - filtered(spread, scale=2))
        image = half


def descriptors(frames, level):
    """128 patches of each frame, normalised per channel, [N * 128, 147]."""
    patches = []
    for number, frame in enumerate(frames):
        image, stream = pyramid(frame)[level], Stream(1, number, level)
        for _ in range(128):
            y = stream.below(image.shape[0] - 6)
            x = stream.below(image.shape[1] - 6)
            patches.append(image[y:y + 7, x:x + 7].transpose(2, 0, 1))
    patches = np.stack(patches)
    patches -= patches.mean(axis=(0, 2, 3), keepdims=True)
    return (patches / patches.std(axis=(0, 2, 3), keepdims=True)).reshape(len(patches), -1)


def sliced_wasserstein(a, b):
    """The distance of each level between frames [N,H,W,3]."""
    directions = np.stack([Stream(2, d, 0).normals(147) for d in range(512)], axis=1)
    directions /= np.linalg.norm(directions, axis=0)
    return [1000 * np.mean(np.abs(np.sort(descriptors(a, level) @ directions, axis=0)
                                  - np.sort(descriptors(b, level) @ directions, axis=0)))
            for level in range(len(pyramid(a[0])))]


# --- Content and flicker ------------------------------------------------------------------------------

def windowed(image):
    """The mean in every valid 11 x 11 Gaussian window of deviation 1.5."""
    weights = np.exp(-(np.arange(11) - 5.0) ** 2 / (2 * 1.5**2))
    weights /= weights.sum()
    rows, columns = image.shape[0] - 10, image.shape[1] - 10
    image = sum(w * image[k:k + rows] for k, w in enumerate(weights))
    return sum(w * image[:, k:k + columns] for k, w in enumerate(weights))


def structure(a, b):
    half = lambda f: (f.astype(np.float64) @ LUMA / 1000).reshape(f.shape[0] // 2, 2, f.shape[1] // 2, 2).mean(axis=(1, 3))
    a, b = half(a), half(b)
    covariance = windowed(a * b) - windowed(a) * windowed(b)
    deviation_a, deviation_b = (np.sqrt(np.maximum(windowed(x * x) - windowed(x) ** 2, 0)) for x in (a, b))
    seen = deviation_a >= 1
    return np.sum((covariance / np.maximum(deviation_b, 1))[seen]) / np.sum(deviation_a[seen])


def cells(frames):
    """Means over 8 x 8 pixels of [...,H,W,3]; sides are multiples of 8."""
    *lead, height, width, _ = frames.shape
    return frames.astype(np.float64).reshape(*lead, height // 8, 8, width // 8, 8, 3).mean(axis=(-4, -2))


def lab_cells(cv2, frame):
    return cv2.cvtColor((cells(frame) / 255).astype(np.float32), cv2.COLOR_RGB2LAB).astype(np.float64)


def flicker(clips):
    """Clips [N,T,H,W,3]."""
    luma = cells(clips) @ LUMA / 1000
    return np.mean(np.abs(luma[:, :-2] - 2 * luma[:, 1:-1] + luma[:, 2:]))
