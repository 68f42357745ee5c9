"""From the caches to what one step computes on; every random draw is keyed by (seed, purpose, step, position)."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cogtune.config.batch import BatchPlan
from cogtune.diffusion.noise import normal, uniform
from cogtune.diffusion.sampling_index import DiscreteSampling
from cogtune.train.batches import DataOrder


class Cached(Protocol):
    """What the feed reads: `cogtune.data.dataset.CachedDataset`, or anything like it."""

    def __len__(self) -> int: ...
    def moments(self, index: int) -> Tensor: ...
    def context(self, index: int) -> Tensor: ...


class Regularizer(Protocol):
    """Draws latents from moments: `cogtune.model.vae.regularizer.DiagonalGaussian`."""

    def sample(self, moments_BCTHW: Tensor, noise_BCTHW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Draws:
    """One micro batch, on the CPU. x0 is scaled; noise has its shape; both fp32. index: timesteps, int64."""

    x0_BTCHW: Tensor
    context_BLD: Tensor
    index_B: Tensor
    noise_BTCHW: Tensor
    offset_B: Tensor

    def to(self, device: torch.device) -> "Draws":
        """The same on ``device``; the timesteps too."""
        return Draws(*(t.to(device, non_blocking=True) for t in vars(self).values()))


@dataclass(frozen=True)
class Feed:
    """Builds micro batches from cached moments and contexts.

    ``scale_factor`` multiplies the posterior sample; ``frame_multiple`` is the network's temporal patch: a clip whose
    number of latent frames it does not divide gets copies of its first latent in front. ``caption_dropout`` is the
    share of samples whose context is zeroed, after T5, one draw per sample.
    """

    data: Cached
    regularizer: Regularizer
    sampling: DiscreteSampling
    seed: int
    scale_factor: float
    caption_dropout: float = 0.0
    frame_multiple: int = 1

    def micro_batch(self, items: list[int], step: int, positions: range, global_batch: int) -> Draws:
        """The draws for ``items``, which stand at ``positions`` of the global batch of ``step``."""
        index_B = self.sampling.index(
            uniform(self.seed, "timestep", step, indices=positions), torch.tensor(positions), global_batch
        )
        kept_B = uniform(self.seed, "caption_dropout", step, indices=positions) >= self.caption_dropout
        return self._assemble(items, index_B, kept_B, (step, positions), "")

    def validation_batch(self, items: list[int], draws: range, total: int) -> Draws:
        """Fixed draws, for a loss that can be compared between steps: one stratum of timesteps each, all captions."""
        middle_B = (torch.tensor(draws).double() + 0.5) / total
        index_B = (middle_B * self.sampling.params.num_idx).long()
        return self._assemble(items, index_B, torch.ones(len(items), dtype=torch.bool), (0, draws), "validation_")

    def _assemble(
        self, items: list[int], index_B: Tensor, kept_B: Tensor, place: tuple[int, range], purpose: str
    ) -> Draws:
        step, indices = place
        moments_BCTHW = torch.stack([self.data.moments(i) for i in items]).float()
        batch, channels, *grid = moments_BCTHW.shape
        posterior = normal((channels // 2, *grid), self.seed, f"{purpose}posterior", step, indices=indices)
        latent_BCTHW = self.regularizer.sample(moments_BCTHW, posterior) * self.scale_factor
        x0_BTCHW = pad_front(latent_BCTHW.transpose(1, 2), self.frame_multiple).contiguous()
        noise = normal(x0_BTCHW.shape[1:], self.seed, f"{purpose}noise", step, indices=indices)
        offset = normal((), self.seed, f"{purpose}offset", step, indices=indices)
        context_BLD = torch.stack([self.data.context(i) for i in items])
        context_BLD = context_BLD * kept_B.to(context_BLD.dtype).view(batch, 1, 1)
        return Draws(x0_BTCHW, context_BLD, index_B, noise, offset)


def pad_front(latent_BTCHW: Tensor, multiple: int) -> Tensor:
    """Repeat the first latent frame in front until ``multiple`` divides the number of frames (CogVideo's diffusers
    trainer does so for patch_size_t = 2)."""
    lacking = -latent_BTCHW.shape[1] % multiple
    if not lacking:
        return latent_BTCHW
    return torch.cat([latent_BTCHW[:, :1].expand(-1, lacking, -1, -1, -1), latent_BTCHW], dim=1)


@dataclass
class StepFeed:
    """All micro batches of one rank, step after step."""

    feed: Feed
    plan: BatchPlan
    rank: int

    def __post_init__(self) -> None:
        self.order = DataOrder(len(self.feed.data), self.feed.seed)

    def step(self, step: int) -> list[Draws]:
        """This rank's micro batches of ``step``, in order of accumulation."""
        total = self.plan.global_batch
        return [
            self.feed.micro_batch(list(self.order.items(step, positions, total)), step, positions, total)
            for positions in (self.plan.positions(self.rank, k) for k in range(self.plan.accumulation))
        ]


T = TypeVar("T")


class Prefetch(Iterable[T]):
    """Runs ``make(key)`` for each key in a thread, at most ``depth`` results ahead of the reader.

    An exception in the thread is raised where its result would have been read.
    """

    def __init__(self, make: Callable[[int], T], keys: Iterable[int], depth: int = 3) -> None:
        self._make, self._keys = make, keys
        self._results: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> "Prefetch[T]":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            good, value = self._results.get()
            if isinstance(value, BaseException):
                raise value
            if not good:
                return
            yield value  # pyright: ignore[reportReturnType]  # None only marks the end

    def _work(self) -> None:
        try:
            for key in self._keys:
                if not self._put((True, self._make(key))):
                    return
            self._put((False, None))
        except BaseException as error:  # handed to the reader
            self._put((False, error))

    def _put(self, result: tuple[bool, T | BaseException | None]) -> bool:
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
