"""Where a token sits in the video: a table added to the tokens, or a rotation of queries and keys.

Token grids are (T, H, W) in patches. The text tokens come first in the sequence and have no position.
"""

import torch
from torch import Tensor, nn

from cogtune.config.schema.dit import Basic3DPositionEmbeddingParams, Rotary3DPositionEmbeddingParams
from cogtune.errors import UserError

Grid = tuple[int, int, int]


class Basic3DPositionEmbedding(nn.Module):
    """A fixed sine-cosine table, added to the tokens (CogVideoX-2B; upstream Basic3DPositionEmbeddingMixin).

    The table is a parameter because checkpoints hold it; it is never trained. Rows are taken as a prefix, as upstream
    does: right for the configured height and width and any number of frames up to the configured one. At another
    height or width the rows wrap around the configured grid.
    """

    def __init__(
        self,
        params: Basic3DPositionEmbeddingParams,
        *,
        grid: Grid,
        hidden_size: int,
        head_size: int,
        interpolation: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        """grid: token grid at the configured size; interpolation: the network's own (t, h, w) factors, which the
        module's parameters override."""
        super().__init__()
        if hidden_size % 16:
            raise UserError(f"hidden_size: {hidden_size}; a 3D sine-cosine table needs a multiple of 16")
        self.text_length, self.grid = params.text_length, grid
        self.interpolation = interpolation_of(params, interpolation)
        self.hidden_size = hidden_size
        self.pos_embedding = nn.Parameter(self.table(), requires_grad=False)

    def table(self) -> Tensor:
        """(1, text + T*H*W, D) fp32; zero for the text."""
        video_ND = sincos_3d(self.grid, self.hidden_size, self.interpolation).float()
        return torch.cat([video_ND.new_zeros(self.text_length, self.hidden_size), video_ND])[None]

    def forward(self, h_BND: Tensor, grid: Grid) -> Tensor:
        """Tokens [text; video] plus their rows of the table."""
        return h_BND + _prefix(self.pos_embedding, h_BND, grid, self.text_length)

    def rotation(self, grid: Grid, text_length: int, device: torch.device) -> None:
        return None


class Rotary3DPositionEmbedding(nn.Module):
    """Rotary embedding over (t, h, w) (CogVideoX-5B, 1.5; upstream Rotary3DPositionEmbeddingMixin).

    Positions are whole numbers from 0 on every axis at every size: nothing is centred or rescaled. The image-to-video
    model of 1.0 also adds a learned table, which holds for the configured height and width only.
    """

    def __init__(
        self,
        params: Rotary3DPositionEmbeddingParams,
        *,
        grid: Grid,
        hidden_size: int,
        head_size: int,
        interpolation: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        """grid: token grid at the configured size; interpolation: accepted and unused, as upstream."""
        super().__init__()
        if params.hidden_size_head != head_size:
            raise UserError(
                f"hidden_size_head: {params.hidden_size_head}, but hidden_size / num_attention_heads is {head_size}"
            )
        if head_size % 16:
            raise UserError(f"hidden_size_head: {head_size}; a 3D rotary embedding needs a multiple of 16")
        self.text_length, self.head_size, self.theta = params.text_length, head_size, params.theta
        if params.learnable_pos_embed:
            rows = params.text_length + grid[0] * grid[1] * grid[2]
            self.pos_embedding = nn.Parameter(torch.zeros(1, rows, hidden_size))
        else:
            self.pos_embedding = None
        self._cache: dict[tuple[object, ...], Tensor] = {}

    def forward(self, h_BND: Tensor, grid: Grid) -> Tensor:
        if self.pos_embedding is None:
            return h_BND
        return h_BND + _prefix(self.pos_embedding, h_BND, grid, self.text_length)

    def rotation(self, grid: Grid, text_length: int, device: torch.device) -> Tensor:
        """Unit complex numbers (L + N, 1, head_size / 2), complex64; 1 for the text tokens. Kept for the last sizes."""
        key = (grid, text_length, device)
        if key not in self._cache:
            if len(self._cache) == 4:
                self._cache.pop(next(iter(self._cache)))
            video_NC = rotary_3d(grid, self.head_size, self.theta, device)
            text_LC = video_NC.new_ones(text_length, self.head_size // 2)
            self._cache[key] = torch.cat([text_LC, video_NC])[:, None, :]
        return self._cache[key]


def interpolation_of(
    params: Basic3DPositionEmbeddingParams, network: tuple[float, float, float]
) -> tuple[float, float, float]:
    """(t, h, w) factors that positions are divided by: the module's own, else the network's."""
    own = (params.time_interpolation, params.height_interpolation, params.width_interpolation)
    t, h, w = (theirs if mine is None else mine for mine, theirs in zip(own, network, strict=True))
    return t, h, w


def sincos_3d(grid: Grid, dim: int, interpolation: tuple[float, float, float]) -> Tensor:
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
    """exp(i angle), (T*H*W, head_size / 2) complex64, of [t: 1/4 | h: 3/8 | w: 3/8]; angle_j = p theta^(-2j / d)."""

    def axis(size: int, width: int) -> Tensor:
        frequency_K = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
        angle_PK = torch.outer(torch.arange(size, dtype=torch.float32, device=device), frequency_K)
        return torch.polar(torch.ones_like(angle_PK), angle_PK)

    T, H, W = grid
    t_TC = axis(T, head_size // 4)[:, None, None].expand(T, H, W, -1)
    h_HC = axis(H, head_size // 8 * 3)[None, :, None].expand(T, H, W, -1)
    w_WC = axis(W, head_size // 8 * 3)[None, None, :].expand(T, H, W, -1)
    return torch.cat([t_TC, h_HC, w_WC], dim=3).flatten(0, 2)


def rotate(x_BNHD: Tensor, rotation_N1C: Tensor) -> Tensor:
    """Turns each pair (2j, 2j+1) of the last axis, in fp32; x's shape and dtype."""
    pairs_BNHC = torch.view_as_complex(x_BNHD.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs_BNHC * rotation_N1C).flatten(-2).to(x_BNHD.dtype)


def _prefix(table_1ND: Tensor, h_BND: Tensor, grid: Grid, text_length: int) -> Tensor:
    tokens, rows = h_BND.shape[1], table_1ND.shape[1]
    text_tokens = tokens - grid[0] * grid[1] * grid[2]
    if text_tokens != text_length:
        raise UserError(f"context has {text_tokens} tokens; pos_embed_config.params.text_length says {text_length}")
    if tokens > rows:
        raise UserError(
            f"a latent of {grid} patches (T, H, W) needs {tokens - text_length} rows of the position table, which has "
            f"{rows - text_length}; raise num_frames, latent_height or latent_width, or use smaller clips"
        )
    return table_1ND[:, :tokens]
