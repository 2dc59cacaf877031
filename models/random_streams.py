"""Random numbers that belong to a name, not to a place in a batch.

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as a function of (key, index): the same key gives the same numbers
whatever else is drawn beside it, and thousands of short streams cost no more than one long one. Keys come from the
seed, so a run repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keys_of(names: Sequence[str], seed: int) -> Keys:
    """Return one key (n,) for each name and this seed."""
    digests = [hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def child_keys(keys: Keys, numbers: npt.NDArray[np.int64]) -> Keys:
    """Return the keys (n,) of the children of `keys` (n,) with these numbers (n,)."""
    return _mix(keys ^ _mix(numbers.astype(np.uint64) * _GOLDEN + _GOLDEN))


def uniforms(keys: Keys, n: int) -> npt.NDArray[np.float64]:
    """Return the first n numbers of each stream (n_keys, n), between 0 and 1, neither included."""
    states = keys[:, None] + np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
    top = _mix(states) >> np.uint64(11)
    return (top.astype(np.float64) + 0.5) * 2.0**-53


def normals(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return standard normal numbers in place of uniform ones."""
    from scipy.special import ndtri

    return np.asarray(ndtri(uniform), dtype=np.float64)


def _mix(values: Keys) -> Keys:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
