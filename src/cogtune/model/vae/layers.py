"""Building blocks of the 3D causal VAE: causal convolutions, norms, resampling.

Shapes: B batch, C channels, T H W frames, height, width. Parameter names are those of upstream
(vae_modules/cp_enc_dec.py), so its checkpoints load unchanged.
"""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Past:
    """The cache between chunks. ``frames``: the last input frames of each causal convolution, by id of the module;
    ``first``: true for the first chunk, whose frame 0 is one pixel frame instead of four."""

    frames: dict[int, Tensor] = field(default_factory=dict)
    first: bool = True


class CausalConv3d(nn.Module):
    """3D convolution, causal in time (upstream ``ContextParallelCausalConv3d``).

    In time, the first frame is repeated in front; in space, zero padding. With ``past``, the last frames of the previous
    chunk are used instead, so that the convolutions have no seams between chunks.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel - 1
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, padding=(0, kernel // 2, kernel // 2))

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        return self.conv(self.with_past(x_BCTHW, past)) if self.reach else self.conv(x_BCTHW)

    def with_past(self, x_BCTHW: Tensor, past: Past | None, activate: bool = False) -> Tensor:
        """The input of the convolution: past frames, then ``x``, through SiLU if ``activate``.

        Separate from the convolution, so that ``x`` can be freed before it runs; without gradients SiLU writes directly
        into the result. So the peak is three tensors of a block's size instead of five (docs/cost_model.md).
        """
        before = None if past is None else past.frames.get(id(self))
        if torch.is_grad_enabled():
            x_BCTHW = F.silu(x_BCTHW) if activate else x_BCTHW
            first = x_BCTHW[:, :, :1].expand(-1, -1, self.reach, -1, -1)
            padded_BCTHW = torch.cat([first if before is None else before, x_BCTHW], dim=2)
        else:
            B, C, T, H, W = x_BCTHW.shape
            padded_BCTHW = x_BCTHW.new_empty(B, C, self.reach + T, H, W)
            own_BCTHW = padded_BCTHW[:, :, self.reach :]
            torch.ops.aten.silu.out(x_BCTHW, out=own_BCTHW) if activate else own_BCTHW.copy_(x_BCTHW)
            padded_BCTHW[:, :, : self.reach] = own_BCTHW[:, :, :1] if before is None else before
        if past is not None:
            past.frames[id(self)] = padded_BCTHW[:, :, -self.reach :].clone()
        return padded_BCTHW


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm over (channels / groups, T, H, W), with statistics over all frames of the input."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class SpatialNorm3D(nn.Module):
    """GroupNorm with scale and shift from the latent (upstream ``SpatialNorm3D``): GN(f) * conv_y(z) + conv_b(z)."""

    def __init__(self, channels: int, z_channels: int, groups: int) -> None:
        super().__init__()
        self.norm_layer = group_norm(channels, groups)
        self.conv_y = CausalConv3d(z_channels, channels, 1)
        self.conv_b = CausalConv3d(z_channels, channels, 1)

    def forward(self, f_BCTHW: Tensor, z_BCTHW: Tensor, first: bool) -> Tensor:
        # 1x1x1 convolutions commute with nearest resizing; at latent size they cost 1/256 of upstream's order.
        scale, shift = (resize_latent(conv(z_BCTHW), f_BCTHW, first) for conv in (self.conv_y, self.conv_b))
        normed = self.norm_layer(f_BCTHW)
        return torch.addcmul(shift, normed, scale, out=None if torch.is_grad_enabled() else normed)


def resize_latent(z_BCTHW: Tensor, f_BCTHW: Tensor, first: bool) -> Tensor:
    """Nearest resize of ``z`` to the size of ``f``. In the first chunk frame 0 is resized separately, because the first
    latent is one pixel frame and every other one is four."""
    size = f_BCTHW.shape[-3:]
    if z_BCTHW.shape[-3:] == size:
        return z_BCTHW
    if first and size[0] > 1:
        alone = F.interpolate(z_BCTHW[:, :, :1], size=(1, *size[1:]))
        rest = F.interpolate(z_BCTHW[:, :, 1:], size=(size[0] - 1, *size[1:]))
        return torch.cat([alone, rest], dim=2)
    return F.interpolate(z_BCTHW, size=size)


class ResBlock(nn.Module):
    """norm, SiLU, conv, twice, plus the input. ``z_channels`` > 0 makes the norms spatial (decoder)."""

    def __init__(
        self, channels_in: int, channels_out: int, groups: int, z_channels: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()

        def norm(channels: int) -> nn.Module:
            return SpatialNorm3D(channels, z_channels, groups) if z_channels else group_norm(channels, groups)

        self.norm1 = norm(channels_in)
        self.conv1 = CausalConv3d(channels_in, channels_out, 3)
        self.norm2 = norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(channels_out, channels_out, 3)
        self.nin_shortcut = nn.Conv3d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x_BCTHW: Tensor, z_BCTHW: Tensor | None = None, past: Past | None = None) -> Tensor:
        h = self.conv1.with_past(apply_norm(self.norm1, x_BCTHW, z_BCTHW, past), past, activate=True)
        h = self.conv1.conv(h)
        h = apply_norm(self.norm2, h, z_BCTHW, past)  # a separate statement, so that the input can be freed
        h = self.conv2.with_past(h, past, activate=True)
        h = self.conv2.conv(self.dropout(h))
        shortcut = x_BCTHW if self.nin_shortcut is None else self.nin_shortcut(x_BCTHW)
        return h + shortcut if torch.is_grad_enabled() else h.add_(shortcut)


def apply_norm(norm: nn.Module, x_BCTHW: Tensor, z_BCTHW: Tensor | None, past: Past | None) -> Tensor:
    """A plain norm of the encoder, or a spatial one of the decoder."""
    return norm(x_BCTHW) if z_BCTHW is None else norm(x_BCTHW, z_BCTHW, past is None or past.first)


class Downsample(nn.Module):
    """Halves height and width, and with ``compress_time`` also time (frame 0 stays, the others are averaged in pairs)."""

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.compress_time and x_BCTHW.shape[2] > 1:
            lone = x_BCTHW.shape[2] % 2
            pairs = x_BCTHW[:, :, lone:].unflatten(2, (-1, 2)).mean(3)  # avg_pool3d has no bf16 on the CPU
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1], pairs], dim=2) if lone else pairs
        return _per_frame(self.conv, F.pad(x_BCTHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width (nearest), and with ``expand_time`` also time, except for frame 0 of the first chunk."""

    def __init__(self, channels: int, expand_time: bool) -> None:
        super().__init__()
        self.expand_time = expand_time
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        alone = x_BCTHW.shape[2] if not self.expand_time else int(past is None or past.first)
        parts = [
            F.interpolate(part, scale_factor=(factor, 2.0, 2.0))
            for part, factor in ((x_BCTHW[:, :, :alone], 1.0), (x_BCTHW[:, :, alone:], 2.0))
            if part.shape[2]
        ]
        return _per_frame(self.conv, parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))


def _per_frame(conv: nn.Conv2d, x_BCTHW: Tensor) -> Tensor:
    batch = x_BCTHW.shape[0]
    return rearrange(conv(rearrange(x_BCTHW, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", b=batch)
