"""The 3D causal encoder (upstream vae_modules/cp_enc_dec.py, ``ContextParallelEncoder3D``).

Shapes: B batch, T H W frames, height, width, C channels; latent or pixels, as the name says.
"""

from math import log2

from torch import Tensor, nn

from cogtune.config.geometry import FRAMES_PER_LATENT, latent_frames, pixel_frames
from cogtune.config.schema.vae import Encoder3DParams
from cogtune.model.vae.layers import CausalConv3d, Downsample, Past, ResBlock, group_norm


class Encoder3D(nn.Module):
    """(B, 3, F, H, W) in [-1, 1] → (B, 2 z, T, H/8, W/8), T = 1 + (F - 1) / 4: mean and log-variance on the channel axis.

    ``ch_mult`` has one entry per level. All levels but the last halve the size; the first log2(4) = 2 also halve the time.
    """

    def __init__(self, params: Encoder3DParams) -> None:
        super().__init__()
        groups, widths = params.num_groups, [params.ch * factor for factor in params.ch_mult]
        self.conv_in = CausalConv3d(params.in_channels, params.ch, 3)
        self.down = nn.ModuleList()
        before = params.ch
        for level, width in enumerate(widths):
            stage = nn.Module()
            stage.block = nn.ModuleList()
            for _ in range(params.num_res_blocks):
                stage.block.append(ResBlock(before, width, groups, dropout=params.dropout))
                before = width
            if level < len(widths) - 1:
                stage.downsample = Downsample(width, compress_time=level < log2(FRAMES_PER_LATENT))
            self.down.append(stage)
        self.mid = nn.Module()
        self.mid.block_1 = ResBlock(before, before, groups, dropout=params.dropout)
        self.mid.block_2 = ResBlock(before, before, groups, dropout=params.dropout)
        self.norm_out = group_norm(before, groups)
        self.conv_out = CausalConv3d(before, params.z_channels * (2 if params.double_z else 1), 3)

    def forward(self, video_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        h: Tensor = self.conv_in(video_BCTHW, past)
        for stage in self.down:
            for block in stage.block:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, past=past)
            if hasattr(stage, "downsample"):
                h = stage.downsample(h)  # pyright: ignore[reportCallIssue]
        h = self.mid.block_2(self.mid.block_1(h, past=past), past=past)  # pyright: ignore[reportCallIssue]
        h = self.conv_out.with_past(self.norm_out(h), past, activate=True)
        return self.conv_out.conv(h)


def check_frames(frames: int) -> None:
    """Raise ValueError unless frames = 4k + 1 (pooling would silently drop the remainder)."""
    if frames < 1 or frames % FRAMES_PER_LATENT != 1:
        near = max(1, pixel_frames(latent_frames(frames)))
        raise ValueError(f"{frames} frames; the 3D VAE needs 4k + 1 (1, 5, 9, …, 49), such as {near}")
