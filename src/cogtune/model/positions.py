"""Position embeddings: a table added to the tokens, or a rotation of queries and keys.

Shapes: B batch, N tokens, H heads, D hidden (of one head after H), C = D / 2 channel pairs of a head; of a table: T H W
frames, rows and columns of its grid, K frequencies. Token grids are (T, H, W) in patches. The text tokens come first in
the sequence and have no position.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cogtune.config.schema.dit import (
    Basic3DPositionEmbeddingParams,
    Factors,
    PositionParams,
    Rotary3DPositionEmbeddingParams,
)
from cogtune.errors import UserError

Grid = tuple[int, int, int]


class Rotation(NamedTuple):
    """cos and sin of the angle by which each channel pair (2j, 2j + 1) of each token is rotated, fp32; the angle of text
    tokens is 0.

    Both tensors are (L + N, 1, head_size): cos in both channels of a pair; -sin in the first and sin in the second.
    """

    cos_N1D: Tensor
    sin_N1D: Tensor

    @classmethod
    def by(cls, angle_NC: Tensor) -> "Rotation":
        """From the angle of each channel pair of each token, (N, C)."""
        cos_NC, sin_NC = angle_NC.cos(), angle_NC.sin()
        cos_ND, sin_ND = (torch.stack(pair, dim=-1).flatten(1) for pair in ((cos_NC, cos_NC), (-sin_NC, sin_NC)))
        return cls(cos_ND[:, None], sin_ND[:, None])


class PositionEmbedding(nn.Module):
    """A position embedding. It may add a table to the tokens, rotate queries and keys, or both.

    ``pos_embedding``: the table, (1, text + T*H*W, D); None if the params declare no table.
    """

    def __init__(
        self,
        params: PositionParams,
        *,
        grid: Grid,
        hidden_size: int,
        head_size: int,
        interpolation: Factors = (1.0, 1.0, 1.0),
    ) -> None:
        """grid: token grid at the configured size; interpolation: the network's (t, h, w) factors.

        Raises: UserError for sizes that this embedding does not support.
        """
        super().__init__()
        for name, problem in params.size_problems(hidden_size, head_size):
            raise UserError(f"{name}: {problem}")
        self.params, self.text_length, self.head_size = params, params.text_length, head_size
        self.pos_embedding: nn.Parameter | None = None
        if params.adds_table:
            self.pos_embedding = nn.Parameter(torch.zeros(params.table_shape(math.prod(grid), hidden_size)))

    def forward(self, h_BND: Tensor, grid: Grid) -> Tensor:
        """Tokens [text; video] plus their rows of the table. Raises UserError if the table has too few rows."""
        if self.pos_embedding is None:
            return h_BND
        return h_BND + _prefix(self.pos_embedding, h_BND, grid, self.text_length)

    def rotation(self, grid: Grid, text_length: int, device: torch.device) -> Rotation | None:
        """The rotation of queries and keys at a token grid; None if this embedding does not rotate."""
        return None

    def computed_state(self) -> dict[str, Tensor]:
        """The entries of the state dict that are computed and never trained."""
        return {}


class Basic3DPositionEmbedding(PositionEmbedding):
    """A fixed sine-cosine table, added to the tokens (CogVideoX-2B; upstream Basic3DPositionEmbeddingMixin).

    The table is a parameter because checkpoints contain it; it is never trained. The first rows are used, as in upstream:
    this is correct for the configured height and width and any number of frames up to the configured one. With another
    height or width the rows do not match the grid.
    """

    def __init__(
        self,
        params: Basic3DPositionEmbeddingParams,
        *,
        grid: Grid,
        hidden_size: int,
        head_size: int,
        interpolation: Factors = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(params, grid=grid, hidden_size=hidden_size, head_size=head_size)
        self.grid, self.hidden_size, self.interpolation = grid, hidden_size, params.interpolation(interpolation)
        self.pos_embedding = nn.Parameter(self.table(), requires_grad=False)

    def table(self) -> Tensor:
        """The table, (1, text + T*H*W, D) fp32; zero for the text."""
        video_ND = sincos_3d(self.grid, self.hidden_size, self.interpolation).float()
        return torch.cat([video_ND.new_zeros(self.text_length, self.hidden_size), video_ND])[None]

    def computed_state(self) -> dict[str, Tensor]:
        return {"pos_embedding": self.table()}


class Rotary3DPositionEmbedding(PositionEmbedding):
    """Rotary embedding over (t, h, w) (CogVideoX-5B, 1.5; upstream Rotary3DPositionEmbeddingMixin).

    Positions are integers from 0 on every axis at every size, neither centred nor rescaled; as in upstream, interpolation
    is ignored. The image-to-video model of 1.0 also adds a learned table, which fits only the configured height and width.
    """

    params: Rotary3DPositionEmbeddingParams

    def rotation(self, grid: Grid, text_length: int, device: torch.device) -> Rotation:
        video_NC = rotary_3d(grid, self.head_size, self.params.theta, device)
        return Rotation.by(torch.cat([video_NC.new_zeros(text_length, self.head_size // 2), video_NC]))


def sincos_3d(grid: Grid, dim: int, interpolation: Factors) -> Tensor:
    """Table (T*H*W, dim), float64, of [t: dim/4 | w: 3/8 dim | h: 3/8 dim] (width before height, as trained); each axis
    is [sin(p w_k) | cos(p w_k)] with w_k = 10000^(-k / (d/2)) and p = position / interpolation."""

    def axis(size: int, factor: float, width: int) -> Tensor:
        position_P = torch.arange(size, dtype=torch.float64) / factor
        frequency_K = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
        angle_PK = torch.outer(position_P, frequency_K)
        return torch.cat([angle_PK.sin(), angle_PK.cos()], dim=1)

    (T, H, W), (factor_t, factor_h, factor_w) = grid, interpolation
    t_TD = axis(T, factor_t, dim // 4)[:, None, None].expand(T, H, W, -1)
    w_WD = axis(W, factor_w, dim // 8 * 3)[None, None, :].expand(T, H, W, -1)
    h_HD = axis(H, factor_h, dim // 8 * 3)[None, :, None].expand(T, H, W, -1)
    return torch.cat([t_TD, w_WD, h_HD], dim=3).flatten(0, 2)


def rotary_3d(grid: Grid, head_size: int, theta: float, device: torch.device) -> Tensor:
    """Angles (T*H*W, head_size / 2), fp32, of [t: 1/4 | h: 3/8 | w: 3/8]; angle_j = p theta^(-2j / d)."""

    def axis(size: int, width: int) -> Tensor:
        frequency_K = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
        return torch.outer(torch.arange(size, dtype=torch.float32, device=device), frequency_K)

    T, H, W = grid
    t_TC = axis(T, head_size // 4)[:, None, None].expand(T, H, W, -1)
    h_HC = axis(H, head_size // 8 * 3)[None, :, None].expand(T, H, W, -1)
    w_WC = axis(W, head_size // 8 * 3)[None, None, :].expand(T, H, W, -1)
    return torch.cat([t_TC, h_HC, w_WC], dim=3).flatten(0, 2)


def rotate(x_BNHD: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each channel pair (a, b) to (a cos - b sin, b cos + a sin), in fp32; returns x's shape and dtype."""
    x = x_BNHD.float()
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x * rotation.cos_N1D + swapped * rotation.sin_N1D).to(x_BNHD.dtype)


def _prefix(table_1ND: Tensor, h_BND: Tensor, grid: Grid, text_length: int) -> Tensor:
    tokens, rows = h_BND.shape[1], table_1ND.shape[1]
    text_tokens = tokens - grid[0] * grid[1] * grid[2]
    if text_tokens != text_length:
        raise UserError(f"context has {text_tokens} tokens, but pos_embed_config.params.text_length is {text_length}")
    if tokens > rows:
        raise UserError(
            f"a latent of {grid} patches (T, H, W) needs {tokens - text_length} rows of the position table, but it has "
            f"{rows - text_length}; raise num_frames, latent_height or latent_width, or use smaller clips"
        )
    return table_1ND[:, :tokens]
