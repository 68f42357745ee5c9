from typing import Any

import pytest
import torch

from cogtune.config.schema.vae import Decoder3DParams
from cogtune.diffusion.image import ImageCondition
from cogtune.sampling import generate
from cogtune.sampling.generate import Generator

DISCRETIZATION = {"target": "ZeroSNRDDPMDiscretization", "params": {"shift_scale": 3.0}}
SAMPLER = {
    "target": "VPSDEDPMPP2MSampler",
    "params": {
        "num_steps": 5,
        "discretization_config": DISCRETIZATION,
        "guider_config": {"target": "VanillaCFG", "params": {"scale": 3.0}},
    },
}


class Doubling:
    """A VAE that makes three pixels of each latent value, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def decode(self, latent_BCTHW: Any):
        self.seen.append(latent_BCTHW)
        return latent_BCTHW[:, :3].repeat_interleave(2, 3).repeat_interleave(2, 4)


def denoise(x_BTCHW: Any, a_B: Any, index_B: Any, context_BLD: Any, concat_BTCHW: Any = None):
    """Pulls towards a value that the caption names."""
    return 0.3 * x_BTCHW.tanh() + context_BLD.mean((1, 2)).view(-1, 1, 1, 1, 1)


def make(ids: Any, contexts: Any, guided: Any = False, seed: int = 7, **changes: Any):
    vae = Doubling()
    options = {"shape": (3, 4, 2, 3), "scale_factor": 0.7, "frame_multiple": 1} | changes
    maker = Generator(denoise=denoise, vae=vae, seed=seed, device=torch.device("cpu"), **options)
    context_BLD = torch.tensor(contexts).view(-1, 1, 1).expand(-1, 2, 4)
    return maker.videos(ids, context_BLD, generate.samplers(SAMPLER, None)[guided]), vae


def test_a_sample_does_not_depend_on_its_batch():
    together, _ = make(["a", "b", "c"], [0.1, 0.2, 0.3])
    for name, context, expected in zip("abc", [0.1, 0.2, 0.3], together, strict=True):
        alone, _ = make([name], [context])
        assert torch.equal(alone[0], expected)


def test_variants_of_one_prompt_start_from_the_same_noise():
    def first_input(context: Any, guided: Any):
        seen = []

        def spy(x: Any, a: Any, index: Any, context: Any, concat: Any):
            seen.append(x.clone())
            return denoise(x, a, index, context)

        maker = Generator(spy, Doubling(), (3, 4, 2, 3), 1.0, 7, torch.device("cpu"))
        maker.videos(["a"], torch.full((1, 2, 4), context), generate.samplers(SAMPLER, None)[guided])
        return seen[0][:1]

    assert torch.equal(first_input(0.1, False), first_input(0.5, True))


def test_seed_and_id_change_the_sample():
    base, *others = (make([name], [0.1], seed=seed)[0][0] for name, seed in (("a", 7), ("b", 7), ("a", 8)))
    assert all(not torch.equal(base, other) for other in others)


def test_guidance_moves_away_from_the_unconditional_sample():
    plain, guided = (make(["a"], [0.1], guided=guided)[1].seen[0].mean() for guided in (False, True))
    assert guided > plain + 0.1


def test_the_unconditional_context_is_zero_and_the_image_is_on_both_sides():
    seen = []

    def spy(x: Any, a: Any, index: Any, context: Any, concat: Any):
        seen.append((context, concat))
        return denoise(x, a, index, context)

    maker = Generator(spy, Doubling(), (3, 4, 2, 3), 1.0, 7, torch.device("cpu"), 2, ImageCondition(0.5))
    image_BCHW = torch.randn(1, 4, 2, 3)
    maker.videos(["a"], torch.full((1, 2, 4), 0.3), generate.samplers(SAMPLER, None)[True], image_BCHW)
    for context, concat in seen:
        assert (context[0] == 0).all()
        assert (context[1] == 0.3).all()
        assert concat.shape == (1, 4, 4, 2, 3)  # one for both, over the padded frames
        assert torch.equal(concat[0, 0], 0.5 * image_BCHW[0])
        assert (concat[:, 1:] == 0).all()


def test_padding_frames_are_sampled_in_front_and_dropped():
    videos, vae = make(["a"], [0.1], frame_multiple=2)
    assert vae.seen[0].shape == (1, 4, 3, 2, 3)
    assert videos[0].shape == (3, 3, 4, 6)


def test_number_of_steps_can_be_overridden():
    assert [generate.samplers(SAMPLER, steps)[False].params.num_steps for steps in (None, 2)] == [5, 2]


def test_pixels_are_clamped_and_rounded():
    levels = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 6).expand(3, 1, 1, 6)
    assert generate.to_uint8(levels)[0, 0, 0].tolist() == [0, 0, 128, 255, 255, 255]
    assert generate.to_uint8(levels).shape == (1, 3, 1, 6)


@pytest.mark.parametrize(
    ("frames", "size", "expected"),
    [(49, (480, 720), (13, 16, 60, 90)), (9, (64, 96), (3, 16, 8, 12)), (1, (64, 64), (1, 16, 8, 8))],
)
def test_latent_shape(frames: int, size: tuple[Any, ...], expected: tuple[Any, ...]):
    assert generate.latent_shape(Decoder3DParams(), frames, size, 4) == expected
