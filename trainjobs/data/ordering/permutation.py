"""A shuffle that is computed, not stored: where a number goes is a function of a key.

A Feistel network over the two digits of a number: each round adds a hash of one digit to the other,
which can be undone, so no two numbers meet. Those that leave the range are sent on until they are back.
Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", the generalized Feistel
cipher with cycle walking. The hash is made for statistics, not for secrecy.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bits = NDArray[np.uint64]

ROUNDS = 10
"""Even. With 8 the tests see that pairs of images are not independent in ranges below about 16."""

# Zero-dimensional arrays: numpy takes twice as long with its scalars.
# Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", SplitMix64.
_GOLDEN = np.array(0x9E3779B97F4A7C15, np.uint64)
_MIX = np.array(0xBF58476D1CE4E5B9, np.uint64)
_MIX_AGAIN = np.array(0x94D049BB133111EB, np.uint64)
_HALF = np.array(32, np.uint64)
_ONE = np.array(1, np.uint64)


def derive_key(seed: int, epoch: int, stream: int) -> Bits:
    """A key (1,) of an epoch of a run; `stream` keeps its different uses apart."""
    key: Bits = np.random.Philox(key=[seed, (stream << 32) | epoch]).random_raw(1)
    return key


def derive_keys(key: Bits, numbers: ArrayLike) -> Bits:
    """64 random bits for each number: keys of the parts of what `key` is for."""
    mixed: Bits = (np.atleast_1d(np.asarray(numbers, np.uint64)) + _ONE) * _GOLDEN + key
    mixed = (mixed ^ mixed >> np.uint64(30)) * _MIX
    mixed = (mixed ^ mixed >> np.uint64(27)) * _MIX_AGAIN
    return mixed ^ mixed >> np.uint64(31)


def permute(numbers: NDArray[np.int64], sizes: ArrayLike, keys: Bits) -> NDArray[np.int64]:
    """Where the permutation of range(size) that belongs to a key sends a number.

    Args:
        numbers: (n,), each in range(its size).
        sizes: (n,), or one for all; from 1 to 2**62.
        keys: (n,), or (1,) for all; of `derive_keys`.

    Returns:
        (n,), each in range(its size).
    """
    limits = np.broadcast_to(np.asarray(sizes, np.uint64), numbers.shape)
    keys = np.broadcast_to(keys, numbers.shape)
    sent = _send(numbers.astype(np.uint64), limits, keys)
    while (outside := np.flatnonzero(sent >= limits)).size:
        sent[outside] = _send(sent[outside], limits[outside], keys[outside])
    return sent.astype(np.int64)


def _send(numbers: Bits, sizes: Bits, keys: Bits) -> Bits:
    """The same for range(a * b), where a and b are near the root of the size and a * b is above it."""
    # Were both odd, no round could exchange two numbers alone, and half of all permutations not come.
    a = (np.sqrt(sizes - _ONE).astype(np.uint64) | _ONE) + _ONE
    b = (sizes - _ONE) // a + _ONE
    left = numbers // b
    right = numbers - left * b
    radix, other = a, b
    for _ in range(ROUNDS):
        keys = keys * _GOLDEN
        left += _hash(right, keys, radix)
        np.minimum(left, left - radix, out=left)  # below 0 it wraps to a large number
        left, right, radix, other = right, left, other, radix
    sent: Bits = left * b + right
    return sent


def _hash(digits: Bits, keys: Bits, radix: Bits) -> Bits:
    """A number in range(radix) for each digit and key."""
    mixed = digits * _GOLDEN
    np.bitwise_xor(mixed, keys, out=mixed)
    np.bitwise_xor(mixed, mixed >> _HALF, out=mixed)
    np.multiply(mixed, _MIX, out=mixed)
    np.right_shift(mixed, _HALF, out=mixed)
    np.multiply(mixed, radix, out=mixed)
    np.right_shift(mixed, _HALF, out=mixed)
    return mixed
