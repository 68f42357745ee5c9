"""Random numbers that depend on what they are for, not on who draws them.

Every draw comes from a CPU generator keyed by (seed, purpose, step, index in the global batch). One rank and eight
ranks, an interrupted run and an uninterrupted one, therefore see the same noise.
"""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A fresh CPU generator for these keys; equal arguments give equal streams, different ones unrelated streams."""
    text = json.dumps([int(seed), *keys])  # JSON keeps 1 and "1", and ("ab", "c") and ("a", "bc"), apart
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(shape: Sequence[int], seed: int, *keys: int | str, indices: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), float32 on the CPU: row b is drawn from generator(seed, *keys, indices[b])."""
    return torch.stack([torch.randn(tuple(shape), generator=generator(seed, *keys, int(i))) for i in indices])


def uniform(seed: int, *keys: int | str, indices: Sequence[int]) -> Tensor:
    """One number in [0, 1) per sample, (B,), float64 on the CPU: entry b from generator(seed, *keys, indices[b])."""
    draws = [torch.rand((), generator=generator(seed, *keys, int(i)), dtype=torch.float64) for i in indices]
    return torch.stack(draws)
