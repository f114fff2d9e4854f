"""Addressed randomness: every draw comes from a generator keyed by (seed, purpose, ...).

Nothing consumes a shared stream, so a worker restarted anywhere, at any step, sees what it would have seen.
"""

import hashlib

import numpy as np


def key(seed: int, purpose: str, *address: int) -> int:
    """A 63-bit seed, a function of its arguments alone, for generators that take one."""
    text = "/".join((str(seed), purpose, *map(str, address)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """A numpy generator for one purpose at one address (a worker, a step, an epoch)."""
    return np.random.Generator(np.random.PCG64(key(seed, purpose, *address)))
