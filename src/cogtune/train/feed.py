"""Builds micro batches from the caches. Every random draw is keyed by (seed, purpose, step, position)."""

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
    """The data that the feed reads: the protocol of `cogtune.data.dataset.CachedDataset`."""

    pairs: list[Pair]

    def __len__(self) -> int: ...
    def moments(self, index: int) -> Tensor: ...
    def context(self, index: int) -> Tensor: ...
    def image(self, index: int) -> Tensor: ...


class Regularizer(Protocol):
    """Samples latents from moments: the protocol of `cogtune.model.vae.regularizer.DiagonalGaussian`."""

    def sample(self, moments_BCTHW: Tensor, noise_BCTHW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class MicroBatch:
    """One micro batch, on the CPU. x0: scaled latents; noise: of the same shape; both fp32. index: timesteps, int64.
    concat: the image condition (B, T, C', H, W), fp32, of an image-to-video model."""

    x0_BTCHW: Tensor
    context_BLD: Tensor
    index_B: Tensor
    noise_BTCHW: Tensor
    offset_B: Tensor
    concat_BTCHW: Tensor | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy with all tensors on ``device``. From `pinned` to a GPU it does not wait for the copy."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "MicroBatch":
        """A copy in memory that a GPU reads by itself; made in the prefetch thread. Requires CUDA."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "MicroBatch":
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return MicroBatch(**{name: change(tensor) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Feed:
    """Builds micro batches from cached moments and contexts.

    ``scale_factor`` multiplies the posterior sample. ``frame_multiple`` is the network's temporal patch size: the number
    of latent frames is rounded up to a multiple by copies of the first one. ``caption_dropout`` is the share of samples
    whose context is zeroed, one draw per sample. It is applied after T5, because sampling also uses zeros, not the
    encoding of "", for no caption. ``image`` computes the condition of an image-to-video model from the first frame;
    ``image_dropout`` is the share of samples with zeros instead, one draw per sample (upstream: one per rank),
    independent of the caption's draw.
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

    def micro_batch(self, items: list[int], step: int, positions: range, global_batch: int) -> MicroBatch:
        """The micro batch of ``items``, which are at ``positions`` of the global batch of ``step``."""
        index_B = self.sampling.index(
            uniform(self.seed, "timestep", step, indices=positions), torch.tensor(positions), global_batch
        )
        key = _DrawKey([(step, position) for position in positions])
        kept = (
            self._kept("caption_dropout", self.caption_dropout, key),
            self._kept("image_dropout", self.image_dropout, key),
        )
        return self._assemble(items, index_B, kept, key)

    def fixed_batch(self, draws: Sequence[tuple[int, int]], strata: int) -> MicroBatch:
        """A micro batch whose draws are the same at every step: (item, stratum of ``strata``) of each sample.

        The timestep is the middle of the stratum, and nothing is dropped out. Noise is keyed by clip and stratum, so a clip
        has the same draws whatever other clips there are.
        """
        index_B = self.fixed_index([stratum for _, stratum in draws], strata)
        all_B = torch.ones(len(draws), dtype=torch.bool)
        key = _DrawKey([(self.data.pairs[item].clip, stratum) for item, stratum in draws], "validation_")
        return self._assemble([item for item, _ in draws], index_B, (all_B, all_B), key)

    def fixed_index(self, stratum_B: Sequence[int], strata: int) -> Tensor:
        """Timesteps, (B,) int64: the middle of each stratum of ``strata`` equal intervals."""
        middle_B = (torch.tensor(stratum_B).double() + 0.5) / strata
        return (middle_B * self.sampling.params.num_idx).long()

    def _kept(self, purpose: str, share: float, key: "_DrawKey") -> Tensor:
        return key.uniform(self.seed, purpose) >= share

    def _assemble(self, items: list[int], index_B: Tensor, kept: tuple[Tensor, Tensor], key: "_DrawKey") -> MicroBatch:
        """``kept``: masks (B,) of the samples that keep their caption, and of those that keep their image."""
        caption_kept_B, image_kept_B = kept
        moments_BCTHW = torch.stack([self.data.moments(i) for i in items]).float()
        batch, channels, *grid = moments_BCTHW.shape
        posterior = key.normal((channels // 2, *grid), self.seed, "posterior")
        latent_BCTHW = self.regularizer.sample(moments_BCTHW, posterior) * self.scale_factor
        x0_BTCHW = pad_front(latent_BCTHW.transpose(1, 2), self.frame_multiple).contiguous()
        noise = key.normal(x0_BTCHW.shape[1:], self.seed, "noise")
        offset = key.normal((), self.seed, "offset")
        context_BLD = torch.stack([self.data.context(i) for i in items])
        context_BLD = context_BLD * caption_kept_B.to(context_BLD.dtype).view(batch, 1, 1)
        concat = (
            None if self.image is None else self._condition(self.image, items, x0_BTCHW.shape[1], image_kept_B, key)
        )
        return MicroBatch(x0_BTCHW, context_BLD, index_B, noise, offset, concat)

    def _condition(
        self, image: ImageCondition, items: list[int], frames: int, kept_B: Tensor, key: "_DrawKey"
    ) -> Tensor:
        """The image condition from one of the cached noised first frames of each item, sampled from its posterior."""
        uniform_B = key.uniform(self.seed, "image_draw")
        cached = [self.data.image(i) for i in items]
        drawn = [moments_KCHW[int(u * len(moments_KCHW))] for moments_KCHW, u in zip(cached, uniform_B, strict=True)]
        moments_BCHW = torch.stack(drawn).float()
        channels, *grid = moments_BCHW.shape[1:]
        posterior = key.normal((channels // 2, *grid), self.seed, "image_posterior")
        return image(self.regularizer.sample(moments_BCHW, posterior), frames, kept_B)


@dataclass(frozen=True)
class _DrawKey:
    """The key of draws besides seed and purpose: two values per sample, and a prefix of the purpose. In training the values
    are step and position in the global batch; for fixed draws, clip and stratum."""

    samples: list[tuple[int | str, int]]
    prefix: str = ""

    def normal(self, shape: Sequence[int], seed: int, purpose: str) -> Tensor:
        """Standard normal noise (B, *shape), fp32."""
        draws = [normal(shape, seed, self.prefix + purpose, one, indices=[other]) for one, other in self.samples]
        return torch.cat(draws)

    def uniform(self, seed: int, purpose: str) -> Tensor:
        """One number in [0, 1) per sample, (B,), float64."""
        return torch.cat([uniform(seed, self.prefix + purpose, one, indices=[other]) for one, other in self.samples])


def pad_front(latent_BTCHW: Tensor, multiple: int) -> Tensor:
    """Prepend copies of the first latent frame until the number of frames is a multiple of ``multiple`` (as CogVideo's
    diffusers trainer does for patch_size_t = 2)."""
    padding = -latent_BTCHW.shape[1] % multiple
    if not padding:
        return latent_BTCHW
    return torch.cat([latent_BTCHW[:, :1].expand(-1, padding, -1, -1, -1), latent_BTCHW], dim=1)


@dataclass
class StepFeed:
    """The micro batches of one rank at every step; with ``pin`` in pinned memory, for a GPU."""

    feed: Feed
    plan: BatchPlan
    rank: int
    pin: bool = False

    def __post_init__(self) -> None:
        self.order = DataOrder(len(self.feed.data), self.feed.seed)

    def step(self, step: int) -> list[MicroBatch]:
        """This rank's micro batches of ``step``, in order of accumulation."""
        total = self.plan.global_batch
        micro_batches = [
            self.feed.micro_batch(list(self.order.items(step, positions, total)), step, positions, total)
            for positions in (self.plan.positions(self.rank, k) for k in range(self.plan.accumulation))
        ]
        return [micro_batch.pinned() for micro_batch in micro_batches] if self.pin else micro_batches

    def clips(self, step: int, positions: Iterable[int]) -> list[str]:
        """The clips at these positions of the global batch of ``step``, of all ranks. Does not interfere with the
        prefetch thread."""
        order, total = DataOrder(len(self.feed.data), self.feed.seed), self.plan.global_batch
        return [self.feed.data.pairs[order.item(step * total + position)].clip for position in positions]


T = TypeVar("T")


class Prefetch(Iterable[T]):
    """Runs ``make(key)`` for each key in a thread, at most ``depth`` results ahead of the reader.

    An exception in the thread is raised when its result is read.
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
            has_value, value = self._results.get()
            if isinstance(value, BaseException):
                raise value
            if not has_value:
                return
            yield value  # pyright: ignore[reportReturnType]  # None only marks the end

    def _work(self) -> None:
        try:
            for key in self._keys:
                if not self._put((True, self._make(key))):
                    return
            self._put((False, None))
        except BaseException as error:  # raised in the reader
            self._put((False, error))

    def _put(self, result: tuple[bool, T | BaseException | None]) -> bool:
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
