"""Tiles: where they lie, that they join without a trace where nothing else differs, and what they cost in accuracy."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogtune.config.build import build
from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.model.vae.autoencoder import VideoAutoencoder
from cogtune.model.vae.tiling import Tiles, blend, in_tiles, starts
from cogtune.work.load import load_config

REPO = Path(__file__).parents[3]
DECODE = {"decode_tile_size": [64, 96], "decode_tile_overlap": 32}
ENCODE = {"encode_tile_size": [64, 96], "encode_tile_overlap": 32}


def demo_vae(**changes: Any) -> VideoAutoencoder:
    """The demo's trained VAE; random weights would say nothing about seams."""
    node = load_config([REPO / "config/tiny/demo.yaml"], check_files=False).values["model"]["first_stage_config"]
    params = node["params"] | {"ckpt_path": str(REPO / "demo/assets/vae.pt")} | changes
    return build(node | {"params": params})


def footage(frames: int = 1, height: int = 64, width: int = 160) -> Tensor:
    """(1, 3, F, H, W) in [-1, 1]: soft blobs and edges, moving if there is more than one frame."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    waves = [
        torch.sin(x / a + y / b + t / 2) + 0.5 * ((x // c + y // 23 + t) % 2)
        for a, b, c in ((17, 31, 40), (29, 13, 64), (41, 19, 24))
    ]
    return (torch.stack(waves)[None] - 0.25).clamp(-1, 1).float()


def psnr_db(found: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(4 / (found - expected).square().mean()))


@settings(deadline=None)
@given(length=st.integers(1, 300), size=st.integers(2, 60), overlap=st.integers(0, 59))
def test_tiles_cover_everything_and_overlap_enough(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    begins = starts(length, size, overlap)
    assert begins[0] == 0
    assert begins[-1] + size >= length
    assert begins[-1] == max(0, length - size)
    assert all(before + size - after >= overlap for before, after in itertools.pairwise(begins))
    assert all(after > before for before, after in itertools.pairwise(begins))


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 23), width=st.integers(1, 23), overlap=st.integers(0, 5), grow=st.sampled_from([1, 3]))
def test_joins_without_a_trace_what_does_not_look_around(height: int, width: int, overlap: int, grow: int) -> None:
    x = torch.randn(1, 2, 1, height, width)

    def code(part: Tensor) -> Tensor:
        return part.repeat_interleave(grow, 3).repeat_interleave(grow, 4)

    found = in_tiles(code, x, Tiles((6, 7), overlap), 1, grow)
    torch.testing.assert_close(found, code(x), rtol=0, atol=1e-6)


def test_encoding_cuts_pixels_and_joins_latents() -> None:
    x = torch.randn(1, 2, 1, 80, 104)
    found = in_tiles(lambda part: part[..., ::8, ::8], x, Tiles((4, 5), 2), 8, 1)
    torch.testing.assert_close(found, x[..., ::8, ::8], rtol=0, atol=1e-6)


def test_neighbours_are_mixed_linearly() -> None:
    mixed = blend(torch.zeros(1, 1, 1, 1, 6), torch.ones(1, 1, 1, 1, 6), 4, dim=4)
    assert mixed.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.heavy
@torch.no_grad()
def test_the_seams_of_a_trained_vae() -> None:
    """What `tiling` says: the error comes from each tile's own statistics, and blending keeps it from showing as an edge.

    An edge: the largest step from one column to the next, in the error.
    """
    video = footage()
    whole, tiled = demo_vae(), demo_vae(**DECODE)
    hard = demo_vae(decode_tile_size=[64, 80], decode_tile_overlap=0)
    latent = whole.regularizer.mode(whole.encode(video))
    expected, found, abrupt = whole.decode(latent), tiled.decode(latent), hard.decode(latent)
    assert psnr_db(found, expected) == pytest.approx(35.6, abs=0.5)

    def edge(pixels: Tensor) -> float:
        steps_W = (pixels - expected).diff(dim=4).square().mean((0, 1, 2, 3)).sqrt()
        return float(steps_W.max())

    assert edge(found) < 0.25 * edge(abrupt)


@torch.no_grad()
def test_the_seams_of_encoding() -> None:
    video = footage()
    whole, tiled = demo_vae(), demo_vae(**ENCODE)
    expected, found = (vae.regularizer.mode(vae.encode(video)) for vae in (whole, tiled))
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) == pytest.approx(0.08, abs=0.01)


@pytest.mark.heavy
@torch.no_grad()
def test_a_video_that_one_tile_covers_is_not_touched() -> None:
    video = footage(1, 64, 96)
    whole, tiled = demo_vae(), demo_vae(**DECODE, **ENCODE)
    moments = whole.encode(video)
    assert torch.equal(tiled.encode(video), moments)
    latent = whole.regularizer.mode(moments)
    assert torch.equal(tiled.decode(latent), whole.decode(latent))


@pytest.mark.heavy
@torch.no_grad()
def test_slicing_is_one_sample_at_a_time() -> None:
    video = torch.cat([footage(1, 64, 64), footage(1, 64, 64).flip(4)])
    sliced, whole = demo_vae(slicing=True), demo_vae()
    moments = sliced.encode(video)
    assert torch.equal(moments, torch.cat([whole.encode(sample) for sample in video.split(1)]))
    torch.testing.assert_close(moments, whole.encode(video), rtol=0, atol=1e-4)
    latent = whole.regularizer.mode(moments)
    sizes = []
    sliced.decoder.register_forward_hook(lambda module, given, _: sizes.append(given[0].shape[0]))
    torch.testing.assert_close(sliced.decode(latent), whole.decode(latent), rtol=0, atol=1e-4)
    assert sizes == [1, 1]


@pytest.mark.parametrize(("size", "overlap"), [([90, 96], 32), ([96, 96], 30), ([64, 96], 64)])
def test_tiles_that_make_no_sense(size: list[int], overlap: int) -> None:
    changes = {"decode_tile_size": size, "decode_tile_overlap": overlap}
    with pytest.raises(UserError, match=r"decode_tile_size.*multiples of 8 pixels"):
        demo_vae(**changes)
    words = [f"model.first_stage_config.params.{name}={value}" for name, value in changes.items()]
    with pytest.raises(ConfigError, match=r"decode_tile_.*multiple"):
        load_config([REPO / "config/tiny/demo.yaml"], words, check_files=False)
