"""The VAE against diffusers' AutoencoderKLCogVideoX: same random weights, same numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.diffusion.image import image_condition
from cogtune.work.inputs import TrainInput
from cogtune.work.load import load_config
from cogtune.work.stage_input import read_input
from tests.families import difference
from tests.parity import limits

diffusers = pytest.importorskip("diffusers")
CONFIG = Path(__file__).parents[2] / "config"
CODER = {"ch": 32, "ch_mult": [1, 2, 2, 3], "num_res_blocks": 1, "z_channels": 4, "num_groups": 32}
RENAMES = [
    (r"\bdown\.", "down_blocks."),
    (r"\bup\.(\d+)", lambda match: f"up_blocks.{3 - int(match[1])}"),
    (r"\bblock\.(\d)", r"resnets.\1"),
    (r"\bmid\.block_(\d)", lambda match: f"mid_block.resnets.{int(match[1]) - 1}"),
    (r"downsample\.", "downsamplers.0."),
    (r"upsample\.", "upsamplers.0."),
    (r"nin_shortcut", "conv_shortcut"),
]


def foreign_name(name: str) -> str:
    """SAT's parameter name in diffusers (upstream tools/convert_weight_sat2hf.py)."""
    for pattern, new in RENAMES:
        name = re.sub(pattern, new, name)
    return name


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(3)
    coders = {
        f"{part}_config": {"target": name, "params": CODER}
        for part, name in (("encoder", "Encoder3D"), ("decoder", "Decoder3D"))
    }
    ours = build({"target": "VideoAutoencoder", "params": coders})
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    theirs = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(32, 64, 64, 96), latent_channels=4, layers_per_block=1, norm_num_groups=32,
    ).eval()  # fmt: skip
    theirs.load_state_dict({foreign_name(name): value for name, value in ours.state_dict().items()})
    return ours, theirs


@pytest.fixture
def close(hold: Callable[..., Any]):
    def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
        hold(what, "VAE", difference(ours, theirs), limits.VAE)

    return close


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 16, 24), (1, 20, 36), (5, 20, 28), (9, 24, 40), (17, 18, 24), (49, 16, 24)]
)
@torch.no_grad()
def test_encoder_moments(
    pair: tuple[Any, ...], close: Callable[..., Any], frames: int, height: int, width: int
) -> None:
    ours, theirs = pair
    video_BCTHW = torch.randn(2, 3, frames, height, width)
    theirs.num_sample_frames_batch_size = 99  # a whole clip in one call, as upstream; diffusers' own is 8
    close(ours.encode(video_BCTHW), theirs.encode(video_BCTHW).latent_dist.parameters, "moments of a whole clip")


@pytest.mark.parametrize(("frames", "height"), [(1, 16), (5, 16), (9, 20), (17, 16), (25, 20), (49, 16)])
@torch.no_grad()
def test_encoding_in_batches_of_8_frames_is_diffusers_way_and_differs_from_17_on(
    pair: tuple[Any, ...], close: Callable[..., Any], frames: int, height: int
) -> None:
    ours, theirs = pair
    video_BCTHW = torch.randn(1, 3, frames, height, 24)
    theirs.num_sample_frames_batch_size = 8
    foreign = theirs.encode(video_BCTHW).latent_dist.parameters
    whole = ours.encode(video_BCTHW)
    ours.batch_frames = 8
    close(ours.encode(video_BCTHW), foreign, "moments, 8 frames at a time")
    ours.batch_frames = None
    assert ((whole - foreign).abs().max() > 1e-3 * foreign.abs().max()) == (frames >= 17)


@pytest.mark.parametrize(
    ("latents", "height", "width", "batch"), [(1, 3, 4, 2), (3, 5, 3, 1), (5, 3, 4, 2), (7, 2, 3, 1), (13, 2, 3, 1)]
)
@torch.no_grad()
def test_decoder(
    pair: tuple[Any, ...], close: Callable[..., Any], latents: int, height: int, width: int, batch: int
) -> None:
    ours, theirs = pair
    latent_BCTHW = torch.randn(batch, 4, latents, height, width)
    video_BCTHW = ours.decode(latent_BCTHW)
    assert video_BCTHW.shape[2] == 4 * (latents - 1) + 1
    close(video_BCTHW, theirs.decode(latent_BCTHW).sample, "decoded video")


@pytest.fixture
def tiled(pair: tuple[Any, ...]):
    """Both with the same tiles, where diffusers' and ours fit alike; diffusers' settings are put back."""
    ours, theirs = pair
    tiles = {"encode_tile_size": [32, 48], "encode_tile_overlap": 16, "decode_tile_size": [32, 48]}
    params = {f"{part}_config": {"target": f"{part.title()}3D", "params": CODER} for part in ("encoder", "decoder")}
    mine = build({"target": "VideoAutoencoder", "params": params | tiles | {"decode_tile_overlap": 16}})
    mine.load_state_dict(ours.state_dict())
    theirs.enable_tiling(32, 48, 1 / 2, 1 / 3)
    theirs.num_sample_frames_batch_size = 99
    yield mine, theirs
    theirs.disable_tiling()


@pytest.mark.parametrize(("height", "width"), [(48, 80), (64, 48)])
@torch.no_grad()
def test_tiles_are_diffusers_but_at_the_far_edge(
    tiled: tuple[Any, ...], close: Callable[..., Any], height: int, width: int
) -> None:
    """Where tiles fit exactly, diffusers lays one more over the last overlap, as narrow as that (2 latents), with
    statistics of its own; ours ends there."""
    ours, theirs = tiled
    video_BCTHW, latent_BCTHW = torch.randn(1, 3, 5, height, width), torch.randn(1, 4, 3, height // 8, width // 8)
    moments, foreign = ours.encode(video_BCTHW), theirs.encode(video_BCTHW).latent_dist.parameters
    close(moments[..., :-2, :-2], foreign[..., :-2, :-2], "moments in tiles")
    assert not torch.allclose(moments, foreign, atol=1e-3)
    video, foreign = ours.decode(latent_BCTHW), theirs.decode(latent_BCTHW).sample
    close(video[..., :-16, :-16], foreign[..., :-16, :-16], "decoded in tiles")


@pytest.mark.parametrize(
    ("model", "inverted"), [("cogvideox_5b_i2v", False), ("cogvideox1.5_5b_i2v", True)], ids=["1.0", "1.5"]
)
@torch.no_grad()
def test_the_image_condition_is_that_of_diffusers_pipeline(
    pair: tuple[Any, ...], close: Callable[..., Any], model: str, inverted: bool
) -> None:
    """Scale and place: 1.0 times the scale factor, 1.5 divided by it; 3 latents are 4 with the one that pads for 1.5."""
    pipelines = pytest.importorskip("diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video")
    ours, theirs = pair
    patch = 2 if inverted else None
    padded = 13 if inverted else 9  # __call__ adds the frames of the padding before it asks for latents
    theirs.register_to_config(invert_scale_latents=inverted)
    pipeline = SimpleNamespace(
        vae=theirs, vae_scaling_factor_image=0.7, vae_scale_factor_temporal=4, vae_scale_factor_spatial=8,
        transformer=SimpleNamespace(config=SimpleNamespace(patch_size_t=patch)),
        scheduler=SimpleNamespace(init_noise_sigma=1.0),
    )  # fmt: skip
    image_BCHW = torch.rand(1, 3, 16, 24) * 2 - 1
    prepare = pipelines.CogVideoXImageToVideoPipeline.prepare_latents
    latents, expected = prepare(
        pipeline, image_BCHW, 1, 4, padded, 16, 24, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(2)
    )
    noise = torch.randn(1, 4, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    sample = ours.regularizer.sample(ours.encode(image_BCHW[:, :, None]), noise)[:, :, 0]
    config = load_config([CONFIG / f"{model}.yaml", CONFIG / "sft.yaml"], check_files=False)
    given = read_input(TrainInput, config.values)
    condition = image_condition(given.image_input, given.image_scale_factor, given.image_everywhere)
    assert condition is not None
    close(condition(sample, latents.shape[1]), expected, "condition of image to video")
