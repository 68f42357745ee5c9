"""What a step computes on: the same draws however the batch is shared out, and a thread that hides the making."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.config.build import build
from cogtune.data.rows import Pair
from cogtune.diffusion.image import ImageCondition
from cogtune.diffusion.noise import normal
from cogtune.train.feed import Feed, MicroBatch, Prefetch, StepFeed, pad_front
from cogtune.work.batches import BatchPlan


class Clips:
    """Five clips of three latent frames, in memory."""

    def __init__(self) -> None:
        self.pairs = [Pair(f"clip{i}", f"text{i}") for i in range(5)]
        draw = torch.Generator().manual_seed(3)
        self.moments_NCTHW = torch.randn(5, 8, 3, 4, 6, generator=draw)
        self.contexts_NLD = torch.randn(5, 7, 16, generator=draw).bfloat16()
        self.images_NKCHW = torch.randn(5, 3, 8, 4, 6, generator=draw)

    def __len__(self) -> int:
        return 5

    def moments(self, index: int) -> Tensor:
        return self.moments_NCTHW[index]

    def context(self, index: int) -> Tensor:
        return self.contexts_NLD[index]

    def image(self, index: int) -> Tensor:
        return self.images_NKCHW[index]


IMAGE = {"image": ImageCondition(1.25), "image_dropout": 0.3}


def feed(**changes: object) -> Feed:
    options: dict[str, Any] = {"seed": 5, "scale_factor": 0.7, "caption_dropout": 0.3} | changes
    regularizer = build({"target": "DiagonalGaussian", "params": {}})
    sampling = build({"target": "DiscreteSampling", "params": {"uniform_sampling": True}})
    return Feed(Clips(), regularizer, sampling, **options)


def global_batch(plan: BatchPlan, step: int, **changes: object) -> dict[str, Tensor]:
    """The draws of all ranks and passes, put together in the order of positions."""
    ranks = [StepFeed(feed(**changes), plan, rank).step(step) for rank in range(plan.ranks)]
    parts: list[MicroBatch] = [ranks[rank][k] for k in range(plan.accumulation) for rank in range(plan.ranks)]
    made = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    return {name: torch.cat(tensors) for name, tensors in made.items() if tensors[0] is not None}


@pytest.mark.parametrize("plan", [BatchPlan(4, 1, 2), BatchPlan(1, 1, 8), BatchPlan(2, 2, 2), BatchPlan(1, 8, 1)])
@pytest.mark.parametrize("changes", [{}, IMAGE])
def test_every_way_to_share_a_batch_draws_the_same(plan: BatchPlan, changes: dict[str, Any]) -> None:
    for step in (0, 7):
        one, other = global_batch(BatchPlan(8, 1, 1), step, **changes), global_batch(plan, step, **changes)
        assert ("concat_BTCHW" in one) == bool(changes)
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def test_steps_draw_differently() -> None:
    first, second = global_batch(BatchPlan(5, 1, 1), 0), global_batch(BatchPlan(5, 1, 1), 1)
    assert not torch.equal(first["noise_BTCHW"], second["noise_BTCHW"])
    assert not torch.equal(first["index_B"], second["index_B"])


def test_latents_are_scaled_posterior_samples_frames_first() -> None:
    draws = feed(caption_dropout=0.0).micro_batch([2], 0, range(1), 1)
    assert draws.x0_BTCHW.shape == (1, 3, 4, 4, 6)
    mean, logvar = Clips().moments(2).chunk(2)
    standard = (draws.x0_BTCHW[0].transpose(0, 1) / 0.7 - mean) / (0.5 * logvar).exp()
    assert abs(float(standard.mean())) < 0.2
    assert 0.8 < float(standard.std()) < 1.2
    assert draws.context_BLD.dtype == torch.bfloat16


def test_caption_dropout_zeroes_whole_captions_at_its_rate() -> None:
    contexts = torch.cat([feed().micro_batch([0, 1, 2, 3], s, range(4), 4).context_BLD for s in range(200)])
    zeroed = (contexts == 0).flatten(1).all(1)
    assert 0.25 < float(zeroed.float().mean()) < 0.35
    assert not (contexts[~zeroed] == 0).flatten(1).all(1).any()


def test_validation_draws_are_fixed_and_cover_the_timesteps() -> None:
    draws = feed().fixed_batch([(2, stratum) for stratum in range(4)], 4)
    assert draws.index_B.tolist() == [125, 375, 625, 875]
    again = feed(caption_dropout=0.9).fixed_batch([(0, 1), (2, 3), (1, 2), (2, 0)], 4)  # in any company, in any order
    given = {name: tensor for name, tensor in vars(draws).items() if tensor is not None}
    for name, tensor in given.items():
        assert torch.equal(tensor[[3, 0]], getattr(again, name)[[1, 3]]), name
    noise_BTCHW = feed().fixed_batch([(item, stratum) for item in range(2) for stratum in range(2)], 4).noise_BTCHW
    assert len({noise.numpy().tobytes() for noise in noise_BTCHW}) == 4, "each draw has noise of its own"


@pytest.mark.parametrize(("frames", "expected"), [(3, [0, 0, 1, 2]), (4, [0, 1, 2, 3]), (1, [0, 0])])
def test_odd_latents_get_the_first_one_again_in_front(frames: int, expected: list[int]) -> None:
    latent_BTCHW = torch.arange(frames).float().view(1, frames, 1, 1, 1)
    assert pad_front(latent_BTCHW, 2).flatten().tolist() == expected
    assert torch.equal(pad_front(latent_BTCHW, 1), latent_BTCHW)


def test_noise_has_the_shape_of_the_padded_latent() -> None:
    draws = feed(frame_multiple=2).micro_batch([0, 1], 0, range(2), 2)
    assert draws.x0_BTCHW.shape == draws.noise_BTCHW.shape == (2, 4, 4, 4, 6)


def test_the_image_stands_beside_the_first_latent_frame_only() -> None:
    draws = feed(image=ImageCondition(1.25), frame_multiple=2).micro_batch([2, 0], 0, range(2), 2)
    concat = draws.concat_BTCHW
    assert concat is not None
    assert concat.shape == draws.x0_BTCHW.shape == (2, 4, 4, 4, 6)
    assert (concat[:, 1:] == 0).all()
    clips, candidates = Clips(), []
    noise = normal((4, 4, 6), 5, "image_posterior", 0, indices=range(2))
    for place, item in enumerate((2, 0)):
        for moments_CHW in clips.image(item):
            mean, logvar = moments_CHW.chunk(2)
            candidates.append(torch.equal(1.25 * (mean + (0.5 * logvar).exp() * noise[place]), concat[place, 0]))
    assert sum(candidates) == 2


def test_every_noised_first_frame_is_drawn_alike() -> None:
    clips = Clips()
    clips.images_NKCHW = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(5, 3, 8, 4, 6).clone()
    clips.images_NKCHW[:, :, 4:] = -100.0  # log-variance: no spread
    made = feed(image=ImageCondition(1.0))
    made = Feed(clips, *(getattr(made, name) for name in list(vars(made))[1:]))
    steps = [made.micro_batch([0, 1, 2, 3], step, range(4), 4).concat_BTCHW for step in range(100)]
    drawn = torch.cat([step[:, 0, 0, 0, 0] for step in steps if step is not None]).round()
    shares = [float((drawn == value).float().mean()) for value in range(3)]
    assert all(0.27 < share < 0.4 for share in shares), shares


def test_image_dropout_is_one_draw_per_sample_apart_from_the_captions() -> None:
    batches = [feed(**IMAGE).micro_batch([0, 1, 2, 3], step, range(4), 4) for step in range(200)]
    image = torch.cat([(b.concat_BTCHW == 0).flatten(1).all(1) for b in batches if b.concat_BTCHW is not None])
    caption = torch.cat([(b.context_BLD == 0).flatten(1).all(1) for b in batches])
    assert 0.25 < float(image.float().mean()) < 0.35
    assert 0.06 < float((image & caption).float().mean()) < 0.12
    per_batch = image.view(200, 4).sum(1)
    assert 0 < float((per_batch % 4 == 0).float().mean()) < 0.5  # upstream: 1, a whole batch at a time


def test_validation_sees_every_image() -> None:
    draws = feed(image=ImageCondition(1.0), image_dropout=0.9).fixed_batch([(item, item) for item in range(4)], 4)
    assert draws.concat_BTCHW is not None
    assert draws.concat_BTCHW[:, 0].flatten(1).abs().sum(1).min() > 0


def test_prefetch_keeps_the_order_and_stops_early() -> None:
    with Prefetch(lambda key: key * key, range(10), depth=2) as squares:
        assert list(squares) == [key * key for key in range(10)]
    with Prefetch(lambda key: key, range(10_000), depth=2) as numbers:
        assert next(iter(numbers)) == 0


def test_prefetch_raises_where_the_result_would_have_been_read() -> None:
    def fails_at_two(key: int) -> int:
        if key == 2:
            raise OSError("shard is gone")
        return key

    with Prefetch(fails_at_two, range(5)) as results:
        source = iter(results)
        assert [next(source), next(source)] == [0, 1]
        with pytest.raises(OSError, match="shard is gone"):
            next(source)


def test_micro_batches_for_a_gpu_are_pinned_in_the_thread_that_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    plan = BatchPlan(2, 2, 1)
    plain = StepFeed(feed(**IMAGE), plan, 0).step(3)
    assert not pinned
    for_gpu = StepFeed(feed(**IMAGE), plan, 0, pin=True).step(3)
    assert len(pinned) == 2 * len(vars(plain[0])), "each tensor of both micro batches"
    for one, other in zip(plain, for_gpu, strict=True):
        assert all(torch.equal(tensor, getattr(other, name)) for name, tensor in vars(one).items())
