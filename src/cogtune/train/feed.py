"""From the caches to what one step computes on; every random draw is keyed by (seed, purpose, step, position)."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from cogtune.data.rows import Pair
from cogtune.diffusion.image import ImageCondition
from cogtune.diffusion.noise import normal, uniform
from cogtune.diffusion.sampling_index import DiscreteSampling
from cogtune.train.data_order import DataOrder
from cogtune.work.batches import BatchPlan


class Cached(Protocol):
    """What the feed reads: `cogtune.data.dataset.CachedDataset`, or anything like it."""

    pairs: list[Pair]

    def __len__(self) -> int: ...
    def moments(self, index: int) -> Tensor: ...
    def context(self, index: int) -> Tensor: ...
    def image(self, index: int) -> Tensor: ...


class Regularizer(Protocol):
    """Draws latents from moments: `cogtune.model.vae.regularizer.DiagonalGaussian`."""

    def sample(self, moments_BCTHW: Tensor, noise_BCTHW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Draws:
    """One micro batch, on the CPU. x0 is scaled; noise has its shape; both fp32. index: timesteps, int64. concat: the
    image condition (B, T, C', H, W), fp32, of an image-to-video model."""

    x0_BTCHW: Tensor
    context_BLD: Tensor
    index_B: Tensor
    noise_BTCHW: Tensor
    offset_B: Tensor
    concat_BTCHW: Tensor | None = None

    def to(self, device: torch.device) -> "Draws":
        """The same on ``device``; the timesteps too."""
        given = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Draws(**{name: tensor.to(device, non_blocking=True) for name, tensor in given.items()})


@dataclass(frozen=True)
class Feed:
    """Builds micro batches from cached moments and contexts.

    ``scale_factor`` multiplies the posterior sample; ``frame_multiple`` is the network's temporal patch: a clip whose
    number of latent frames it does not divide gets copies of its first latent in front. ``caption_dropout`` is the
    share of samples whose context is zeroed, one draw per sample: after T5, so that zeros, not the states of "", stand for
    no caption, as they do in sampling. ``image``: how the first frame becomes the condition of an image-to-video model, and
    ``image_dropout`` the share of samples that see zeros instead, one draw per sample (upstream: one for a rank's whole
    batch), independent of the caption's.
    """

    data: Cached
    regularizer: Regularizer
    sampling: DiscreteSampling
    seed: int
    scale_factor: float
    caption_dropout: float = 0.0
    frame_multiple: int = 1
    image: ImageCondition | None = None
    image_dropout: float = 0.0

    def micro_batch(self, items: list[int], step: int, positions: range, global_batch: int) -> Draws:
        """The draws for ``items``, which stand at ``positions`` of the global batch of ``step``."""
        index_B = self.sampling.index(
            uniform(self.seed, "timestep", step, indices=positions), torch.tensor(positions), global_batch
        )
        place = _DrawKey(step, positions)
        kept = (
            self._kept("caption_dropout", self.caption_dropout, place),
            self._kept("image_dropout", self.image_dropout, place),
        )
        return self._assemble(items, index_B, kept, place)

    def validation_batch(self, items: list[int], draws: range, total: int) -> Draws:
        """Fixed draws, for a loss that can be compared between steps: one stratum of timesteps each, all captions."""
        middle_B = (torch.tensor(draws).double() + 0.5) / total
        index_B = (middle_B * self.sampling.params.num_idx).long()
        all_B = torch.ones(len(items), dtype=torch.bool)
        return self._assemble(items, index_B, (all_B, all_B), _DrawKey(0, draws, "validation_"))

    def _kept(self, purpose: str, share: float, place: "_DrawKey") -> Tensor:
        return uniform(self.seed, purpose, place.step, indices=place.indices) >= share

    def _assemble(self, items: list[int], index_B: Tensor, kept: tuple[Tensor, Tensor], place: "_DrawKey") -> Draws:
        """``kept``: which samples see their caption, and which their image."""
        caption_kept_B, image_kept_B = kept
        moments_BCTHW = torch.stack([self.data.moments(i) for i in items]).float()
        batch, channels, *grid = moments_BCTHW.shape
        posterior = self._normal((channels // 2, *grid), "posterior", place)
        latent_BCTHW = self.regularizer.sample(moments_BCTHW, posterior) * self.scale_factor
        x0_BTCHW = pad_front(latent_BCTHW.transpose(1, 2), self.frame_multiple).contiguous()
        noise = self._normal(x0_BTCHW.shape[1:], "noise", place)
        offset = self._normal((), "offset", place)
        context_BLD = torch.stack([self.data.context(i) for i in items])
        context_BLD = context_BLD * caption_kept_B.to(context_BLD.dtype).view(batch, 1, 1)
        concat = (
            None if self.image is None else self._condition(self.image, items, x0_BTCHW.shape[1], image_kept_B, place)
        )
        return Draws(x0_BTCHW, context_BLD, index_B, noise, offset, concat)

    def _condition(
        self, image: ImageCondition, items: list[int], frames: int, kept_B: Tensor, place: "_DrawKey"
    ) -> Tensor:
        """One of the cached noised first frames of each item, sampled from its posterior."""
        which_B = uniform(self.seed, f"{place.purpose}image_draw", place.step, indices=place.indices)
        cached = [self.data.image(i) for i in items]
        chosen = [moments_KCHW[int(u * len(moments_KCHW))] for moments_KCHW, u in zip(cached, which_B, strict=True)]
        moments_BCHW = torch.stack(chosen).float()
        channels, *grid = moments_BCHW.shape[1:]
        posterior = self._normal((channels // 2, *grid), "image_posterior", place)
        return image(self.regularizer.sample(moments_BCHW, posterior), frames, kept_B)

    def _normal(self, shape: Sequence[int], purpose: str, place: "_DrawKey") -> Tensor:
        return normal(shape, self.seed, f"{place.purpose}{purpose}", place.step, indices=place.indices)


@dataclass(frozen=True)
class _DrawKey:
    """What draws are keyed by, beside their own name: step, positions in the global batch, and a prefix of the name."""

    step: int
    indices: range
    purpose: str = ""


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

    def clips(self, step: int, positions: Iterable[int]) -> list[str]:
        """The clips at these positions of the global batch of ``step``, of all ranks. Safe beside the thread that
        prefetches."""
        order, total = DataOrder(len(self.feed.data), self.feed.seed), self.plan.global_batch
        return [self.feed.data.pairs[order.item(step * total + position)].clip for position in positions]


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
