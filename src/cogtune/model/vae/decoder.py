"""The 3D causal decoder (upstream vae_modules/cp_enc_dec.py, ``ContextParallelDecoder3D``).

Shapes: B batch, T H W frames, height, width, C channels; latent or pixels, as the name says.
"""

from math import log2

from torch import Tensor, nn

from cogtune.config.geometry import FRAMES_PER_LATENT
from cogtune.config.schema.vae import Decoder3DParams
from cogtune.model.vae.layers import CausalConv3d, Past, ResBlock, SpatialNorm3D, Upsample, apply_norm


class Decoder3D(nn.Module):
    """(B, z, T, h, w) → (B, 3, F, 8h, 8w). All norms are spatial: conditioned on the latent.

    ``up`` is indexed as in upstream: ``up.{last}`` runs first. The first log2(4) = 2 levels that run double the time.
    """

    def __init__(self, params: Decoder3DParams) -> None:
        super().__init__()
        groups, z, widths = params.num_groups, params.z_channels, [params.ch * factor for factor in params.ch_mult]
        before, levels = widths[-1], len(widths)
        self.conv_in = CausalConv3d(z, before, 3)
        self.mid = nn.Module()
        self.mid.block_1 = ResBlock(before, before, groups, z, params.dropout)
        self.mid.block_2 = ResBlock(before, before, groups, z, params.dropout)
        stages: list[nn.Module] = []
        for level in reversed(range(levels)):
            stage = nn.Module()
            stage.block = nn.ModuleList()
            for _ in range(params.num_res_blocks + 1):
                stage.block.append(ResBlock(before, widths[level], groups, z, params.dropout))
                before = widths[level]
            if level > 0:
                stage.upsample = Upsample(before, expand_time=level >= levels - log2(FRAMES_PER_LATENT))
            stages.insert(0, stage)
        self.up = nn.ModuleList(stages)
        self.norm_out = SpatialNorm3D(before, z, groups)
        self.conv_out = CausalConv3d(before, params.out_ch, 3)

    def forward(self, z_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        h: Tensor = self.conv_in(z_BCTHW, past)
        h = self.mid.block_2(self.mid.block_1(h, z_BCTHW, past), z_BCTHW, past)  # pyright: ignore[reportCallIssue]
        for stage in reversed(self.up):  # pyright: ignore[reportArgumentType]
            for block in stage.block:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, z_BCTHW, past)
            if hasattr(stage, "upsample"):
                h = stage.upsample(h, past)  # pyright: ignore[reportCallIssue]
        h = self.conv_out.with_past(apply_norm(self.norm_out, h, z_BCTHW, past), past, activate=True)
        return self.conv_out.conv(h)
