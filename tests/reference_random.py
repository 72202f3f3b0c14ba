"""Random numbers and the shuffled order of clips, computed from their definitions (base/random.h, data/loader/shuffle.h)."""
import math

WORD = 0xFFFFFFFF
# RandomPurpose
SHUFFLE, NOISE, INTERPOLATION, DIFF_AUGMENT, GREY, MOTION, MOTION_NOISE, MIRROR = 2, 4, 8, 12, 13, 14, 15, 16


def philox(counter, key):
    """Philox4x32-10 of Salmon et al. (SC 2011): four 32-bit words of a counter and a key."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b & WORD, (a >> 32) ^ x3 ^ k1, a & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return x0, x1, x2, x3


def order_clip(seed, position, count, epoch=0):
    """Returns the clip at a position of an epoch of `count` clips."""
    key = philox((seed, 0, SHUFFLE, 0), (0, 0))[:2]
    half_bits = 3
    while 1 << 2 * half_bits < count:
        half_bits += 1
    mask, value = (1 << half_bits) - 1, position
    while True:
        left, right = value >> half_bits, value & mask
        for number in range(8):
            left, right = right, (left ^ philox((right, number, epoch, 0), key)[0]) & mask
        value = left << half_bits | right
        if value < count:
            return value


def uniform(seed, purpose, index):
    """Returns the first number of a stream, in [0, 1)."""
    key = philox((seed, 0, purpose, 0), (0, 0))[:2]
    high, low = philox((0, 0, index, 0), key)[:2]
    return ((high << 32 | low) >> 11) * 2.0**-53


class Stream:
    """The numbers of a stream, in order."""

    def __init__(self, seed, purpose, index):
        self.key = philox((seed & WORD, seed >> 32, purpose, 0), (0, 0))[:2]
        self.index, self.block, self.words = index, 0, []

    def word(self):
        if not self.words:
            self.words = list(philox((self.block, 0, self.index & WORD, self.index >> 32), self.key))
            self.block += 1
        return self.words.pop(0)

    def uniform(self):
        """A number in [0, 1)."""
        return ((self.word() << 32 | self.word()) >> 11) * 2.0**-53

    def normals(self, count):
        """Normal numbers of mean 0 and deviation 1: both of each pair of the Box-Muller transform."""
        numbers = []
        while len(numbers) < count:
            radius = math.sqrt(-2 * math.log((self.word() + 1) * 2.0**-32))
            angle = 2 * math.pi * self.word() * 2.0**-32
            numbers += [radius * math.cos(angle), radius * math.sin(angle)]
        return numbers[:count]
