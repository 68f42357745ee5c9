"""The 3D causal VAE by its properties; that its numbers are upstream's is shown in tests/parity/test_vae.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogtune.config.build import build
from cogtune.errors import UserError
from cogtune.model.vae.autoencoder import DECODE_CHUNK, VideoAutoencoder, split_frames
from cogtune.model.vae.layers import CausalConv3d, Past, SpatialNorm3D, resize_latent
from cogtune.model.vae.regularizer import DiagonalGaussian

CODER = {"ch": 4, "ch_mult": [1, 2, 2, 3], "num_res_blocks": 1, "z_channels": 3, "num_groups": 2}


def make_vae(**more: Any) -> VideoAutoencoder:
    torch.manual_seed(0)
    coders = {f"{part.lower()}_config": {"target": f"{part}3D", "params": CODER} for part in ("Encoder", "Decoder")}
    return build({"target": "VideoAutoencoder", "params": coders | more})  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    return make_vae()


@pytest.fixture(scope="module")
def vae_without_statistics() -> VideoAutoencoder:
    """GroupNorm averages over all frames it is given: the one thing that is not causal and not the same in chunks."""
    vae = make_vae()
    for module in list(vae.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return vae


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3), (17, 5)])
@torch.no_grad()
def test_shapes(vae: VideoAutoencoder, frames: int, latents: int) -> None:
    moments = vae.encode(torch.randn(2, 3, frames, 16, 24))
    assert moments.shape == (2, 6, latents, 2, 3)
    assert vae.decode(vae.regularizer.mode(moments)).shape == (2, 3, frames, 16, 24)


@pytest.mark.parametrize("frames", [2, 3, 4, 6, 7, 8, 48])
def test_other_numbers_of_frames_are_refused_with_the_nearest_one(vae: VideoAutoencoder, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"{frames} frames; the 3D VAE needs .* such as {(frames - 1) // 4 * 4 + 1}$"):
        vae.encode(torch.zeros(1, 3, frames, 8, 8))


def test_it_is_frozen(vae: VideoAutoencoder) -> None:
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert not vae.training


@torch.no_grad()
def test_convolution_never_looks_ahead_and_repeats_the_first_frame() -> None:
    conv = CausalConv3d(2, 3, 3)
    x = torch.randn(1, 2, 6, 5, 5)
    later = x.clone()
    later[:, :, 4:] += 1
    assert torch.equal(conv(x)[:, :, :4], conv(later)[:, :, :4])
    assert not torch.allclose(conv(x)[:, :, 4], conv(later)[:, :, 4])
    assert_same(conv(x)[:, :, :1], conv(torch.cat([x[:, :, :1]] * 2 + [x], dim=2))[:, :, 2:3])


@pytest.mark.parametrize("sizes", [[6], [1, 5], [3, 3], [1, 1, 4], [2, 1, 1, 2]])
@torch.no_grad()
def test_convolution_in_chunks_has_no_seam(sizes: list[int]) -> None:
    conv, past = CausalConv3d(2, 3, 3), Past()
    x = torch.randn(1, 2, 6, 5, 5)
    assert_same(torch.cat([conv(part, past) for part in x.split(sizes, dim=2)], dim=2), conv(x))


@pytest.mark.parametrize("known", [1, 2])
@torch.no_grad()
def test_latents_depend_on_no_later_frame(vae_without_statistics: VideoAutoencoder, known: int) -> None:
    video = torch.randn(1, 3, 9, 16, 16)
    later = video.clone()
    later[:, :, 4 * (known - 1) + 1 :] += 1
    before, after = vae_without_statistics.encode(video), vae_without_statistics.encode(later)
    assert_same(after[:, :, :known], before[:, :, :known])
    assert not torch.allclose(before[:, :, known], after[:, :, known], atol=1e-4)


@pytest.mark.parametrize("known", [1, 2])
@torch.no_grad()
def test_pixels_depend_on_no_later_latent(vae_without_statistics: VideoAutoencoder, known: int) -> None:
    latent = torch.randn(1, 3, 3, 2, 2)
    later = latent.clone()
    later[:, :, known:] += 1
    before, after = vae_without_statistics.decode(latent), vae_without_statistics.decode(later)
    end = 4 * (known - 1) + 1
    assert_same(after[:, :, :end], before[:, :, :end])
    assert not torch.allclose(before[:, :, end], after[:, :, end], atol=1e-4)


@pytest.mark.parametrize("latents", [1, 2, 3, 4, 6, 7])
@torch.no_grad()
def test_chunks_differ_from_the_whole_in_statistics_only(
    vae_without_statistics: VideoAutoencoder, latents: int
) -> None:
    latent = torch.randn(1, 3, latents, 2, 2)
    assert_same(vae_without_statistics.decode(latent), vae_without_statistics.decode_whole(latent))


@torch.no_grad()
def test_first_chunk_of_a_decode_knows_nothing_of_the_rest(vae: VideoAutoencoder) -> None:
    latent = torch.randn(1, 3, 5, 2, 2)
    whole_first = vae.decode_whole(latent[:, :, :3])
    assert_same(vae.decode(latent)[:, :, : whole_first.shape[2]], whole_first)


@torch.no_grad()
def test_encoding_in_batches_of_frames_is_the_whole_but_for_statistics(
    vae_without_statistics: VideoAutoencoder,
) -> None:
    video = torch.randn(1, 3, 17, 8, 8)
    whole = vae_without_statistics.encode(video)
    vae_without_statistics.batch_frames = 8
    try:
        assert_same(vae_without_statistics.encode(video), whole)
    finally:
        vae_without_statistics.batch_frames = None


@pytest.mark.parametrize(
    ("frames", "sizes"), [(1, [1]), (2, [2]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (13, [3, 2, 2, 2, 2, 2])]
)
def test_first_chunk_takes_the_remainder(frames: int, sizes: list[int]) -> None:
    assert split_frames(frames, DECODE_CHUNK) == sizes


@pytest.mark.parametrize(("first", "latents", "frames"), [(True, 3, 9), (True, 3, 5), (False, 2, 8), (True, 1, 1)])
@torch.no_grad()
def test_spatial_norm_resizes_after_the_convolution_and_means_the_same(first: bool, latents: int, frames: int) -> None:
    """Upstream resizes the latent first."""
    norm = SpatialNorm3D(4, 3, groups=2)
    f, z = torch.randn(2, 4, frames, 8, 6), torch.randn(2, 3, latents, 4, 3)
    large = resize_latent(z, f, first)
    assert large.shape[2:] == f.shape[2:]
    assert_same(norm(f, z, first), norm.norm_layer(f) * norm.conv_y(large) + norm.conv_b(large))


@torch.no_grad()
def test_regularizer() -> None:
    moments = torch.randn(2, 6, 3, 2, 2)
    posterior: DiagonalGaussian = build({"target": "DiagonalGaussian"})  # pyright: ignore[reportAssignmentType]
    mean, logvar = moments[:, :3], moments[:, 3:]
    assert torch.equal(posterior.mode(moments), mean)
    assert torch.equal(posterior.sample(moments, torch.zeros_like(mean)), mean)
    assert_same(posterior.sample(moments, torch.ones_like(mean)), mean + logvar.exp().sqrt())
    assert torch.equal(posterior.kl(torch.zeros_like(moments)), torch.zeros(2))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, logvar.exp().sqrt()), torch.distributions.Normal(0.0, 1.0)
    )
    assert_same(posterior.kl(moments), expected.flatten(1).sum(1))


def test_half_precision_checkpoint_in_upstreams_layout(vae: VideoAutoencoder, tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in vae.state_dict().items()}
    torch.save({"state_dict": weights | {"loss.logvar": torch.zeros(1)}}, tmp_path / "3d-vae.pt")
    loaded = make_vae(ckpt_path=str(tmp_path / "3d-vae.pt"), ignore_keys=["loss"])
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[name].float()), name


def test_a_checkpoint_that_does_not_fit_is_refused_name_by_name(vae: VideoAutoencoder, tmp_path: Path) -> None:
    weights = vae.state_dict()
    del weights["encoder.conv_in.conv.weight"]
    weights["decoder.conv_out.conv.bias"] = torch.zeros(4)
    weights["loss.logvar"] = torch.zeros(1)
    torch.save({"state_dict": weights}, tmp_path / "3d-vae.pt")
    with pytest.raises(UserError) as refusal:
        make_vae(ckpt_path=str(tmp_path / "3d-vae.pt"))
    for expected in (
        "missing (1): encoder.conv_in.conv.weight",
        "unexpected (1): loss.logvar",
        "decoder.conv_out.conv.bias: (4,) in the file, expected (3,)",
    ):
        assert expected in str(refusal.value)
