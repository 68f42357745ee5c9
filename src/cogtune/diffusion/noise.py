"""Counter-based random numbers: every draw is keyed by (seed, purpose, step, index in the global batch).

The generator is on the CPU. So one rank draws the same noise as eight, and a resumed run the same as an uninterrupted
one.
"""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A new CPU generator for these keys. Equal arguments give equal streams, others independent streams."""
    text = json.dumps([int(seed), *keys])  # JSON distinguishes 1 and "1", and ("ab", "c") and ("a", "bc")
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(shape: Sequence[int], seed: int, *keys: int | str, indices: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), float32 on the CPU: row b is drawn from generator(seed, *keys, indices[b])."""
    return torch.stack([torch.randn(tuple(shape), generator=generator(seed, *keys, int(i))) for i in indices])


def uniform(seed: int, *keys: int | str, indices: Sequence[int]) -> Tensor:
    """One number in [0, 1) per sample, (B,), float64 on the CPU: entry b from generator(seed, *keys, indices[b])."""
    draws = [torch.rand((), generator=generator(seed, *keys, int(i)), dtype=torch.float64) for i in indices]
    return torch.stack(draws)
