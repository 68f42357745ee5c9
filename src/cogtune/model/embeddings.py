"""The inputs of the transformer: patches, caption tokens, the timestep.

Shapes: B batch, T H W latent frames, height, width, C channels, L text tokens, N video tokens, P features of a patch,
D hidden, K frequencies. A patch has o frames, p rows and q columns.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from cogtune.config.schema.dit import PatchEmbeddingParams
from cogtune.errors import UserError

Patch = tuple[int, int, int]


def sinusoid(value_B: Tensor, dim: int) -> Tensor:
    """[cos(value w_k) | sin(value w_k)], (B, dim) fp32, w_k = 10000^(-k / (dim/2)); cosine first."""
    half = dim // 2
    frequency_K = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=value_B.device) / half)
    angle_BK = value_B.float()[:, None] * frequency_K
    return torch.cat([angle_BK.cos(), angle_BK.sin()], dim=1)


class ScalarEmbedding(nn.Sequential):
    """Embeds one number per sample (timestep, ofs): sinusoid, Linear, SiLU, Linear. Parameters `0.*` and `2.*`."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))
        self.dim = dim

    def forward(self, value_B: Tensor) -> Tensor:
        return super().forward(sinusoid(value_B, self.dim).to(next(self.parameters()).dtype))


class PatchEmbedding(nn.Module):
    """Projects latent patches and caption embeddings to one sequence (upstream ImagePatchEmbeddingMixin).

    `proj.weight` is (D, C*o*p*q), with a patch's features in the order (c, o, p, q). Checkpoints of 1.0 store it as the
    weight of a convolution, (D, C, p, q), with the same values.
    """

    def __init__(self, params: PatchEmbeddingParams, *, in_channels: int, hidden_size: int, patch_size: Patch) -> None:
        super().__init__()
        if params.text_hidden_size is None:
            raise UserError("patch_embed_config.params.text_hidden_size: missing; expected the width of T5 (xxl: 4096)")
        self.patch_size = patch_size
        self.proj = nn.Linear(in_channels * math.prod(patch_size), hidden_size)
        self.text_proj = nn.Linear(params.text_hidden_size, hidden_size)
        self.register_load_state_dict_pre_hook(_flatten_convolution)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        self.text_proj.reset_parameters()

    def forward(self, x_BTCHW: Tensor, context_BLD: Tensor) -> Tensor:
        """(B, T, C, H, W) and (B, L, D_text) -> (B, L + N, D), text first, patches by t, then h, then w."""
        o, p, q = self.patch_size
        patches_BNP = rearrange(x_BTCHW, "b (t o) c (h p) (w q) -> b (t h w) (c o p q)", o=o, p=p, q=q)
        return torch.cat([self.text_proj(context_BLD), self.proj(patches_BNP)], dim=1)


def unpatchify(patches_BNP: Tensor, grid: tuple[int, int, int], patch_size: Patch) -> Tensor:
    """(B, N, C*o*p*q) -> (B, T, C, H, W), in PatchEmbedding's order of patches and features."""
    (t, h, w), (o, p, q) = grid, patch_size
    return rearrange(patches_BNP, "b (t h w) (c o p q) -> b (t o) c (h p) (w q)", t=t, h=h, w=w, o=o, p=p, q=q)


def token_grid(x_BTCHW: Tensor, patch_size: Patch) -> tuple[int, int, int]:
    """The number of patches along T, H, W. Raises: UserError if a size is not a multiple of the patch's."""
    sizes = (x_BTCHW.shape[1], *x_BTCHW.shape[3:])
    for name, size, patch in zip(("T (latent frames)", "H", "W"), sizes, patch_size, strict=True):
        if size == 0 or size % patch:
            raise UserError(f"latent of shape {tuple(x_BTCHW.shape)}: {name} is {size}; expected a multiple of {patch}")
    T, H, W = (size // patch for size, patch in zip(sizes, patch_size, strict=True))
    return T, H, W


def _flatten_convolution(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    key = f"{prefix}proj.weight"
    if key in state and state[key].ndim > 2:
        state[key] = state[key].flatten(1)
