"""One transformer layer, its adaptive modulation, and the final layer.

Shapes: B batch, L text tokens, N = L + video tokens, H heads, D hidden (of one head after H), E conditioning vector.
The sequence is [text; video] in one tensor h_BND. Text and video share all weights except the modulation, which has
separate shift, scale and gate for each; a tensor B2D has (text, video) on its axis 1. Parameter names are those of
upstream's checkpoints, in which a layer's modulation and query/key norms are outside of the layer
(`mixins.adaln_layer`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogtune.config.schema.dit import AdaLNParams, FinalLayerParams
from cogtune.model.positions import Rotation, rotate


class Modulation(NamedTuple):
    """Shift, scale and gate of one branch, each (B, 2, D) for (text, video)."""

    shift_B2D: Tensor
    scale_B2D: Tensor
    gate_B2D: Tensor

    def shift_and_scale(self, x_BND: Tensor, L: int) -> Tensor:
        """x (1 + scale) + shift; the first ``L`` tokens are text."""
        parts = zip(_text_and_video(x_BND, L), self.shift_B2D.split(1, 1), self.scale_B2D.split(1, 1), strict=True)
        return torch.cat([torch.addcmul(shift, x, 1 + scale) for x, shift, scale in parts], dim=1)

    def gate(self, x_BND: Tensor, L: int) -> Tensor:
        """gate x"""
        parts = zip(_text_and_video(x_BND, L), self.gate_B2D.split(1, 1), strict=True)
        return torch.cat([gate * x for x, gate in parts], dim=1)


def _text_and_video(x_BND: Tensor, L: int) -> tuple[Tensor, Tensor]:
    return x_BND[:, :L], x_BND[:, L:]


class QueryKeyValue(nn.Linear):
    """Linear D -> 3D, returned as (q, k, v)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 3 * hidden_size)

    def forward(self, x_BND: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(x_BND).chunk(3, dim=-1)


class Attention(nn.Module):
    """Full attention over text and video tokens without a mask, so the caption's padding is attended to, as in training."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value: nn.Module = QueryKeyValue(hidden_size)
        self.dense: nn.Module = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BND: Tensor, norms: tuple[nn.Module, nn.Module], rotation: Rotation | None) -> Tensor:
        """``norms``: the norms of queries and of keys, over the channels of one head."""
        q_BNHD, k_BNHD, v_BNHD = (y.unflatten(-1, (self.heads, -1)) for y in self.query_key_value(x_BND))
        q_BNHD, k_BNHD = norms[0](q_BNHD), norms[1](k_BNHD)
        if rotation is not None:
            q_BNHD, k_BNHD = rotate(q_BNHD, rotation), rotate(k_BNHD, rotation)
        q_BHND, k_BHND, v_BHND = (x.transpose(1, 2) for x in (q_BNHD, k_BNHD, v_BNHD))
        y_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
        return self.dense(y_BHND.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, 4 * hidden_size)
        self.dense_4h_to_h = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x_BND), approximate="tanh"))


class TransformerLayer(nn.Module):
    """Attention and MLP, each as h + gate * branch(norm(h) * (1 + scale) + shift)."""

    def __init__(self, hidden_size: int, heads: int, affine: bool) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(hidden_size, eps=1e-5, elementwise_affine=affine)
        self.attention = Attention(hidden_size, heads)
        self.post_attention_layernorm = nn.LayerNorm(hidden_size, eps=1e-5, elementwise_affine=affine)
        self.mlp = Mlp(hidden_size)

    def forward(
        self,
        h_BND: Tensor,
        L: int,
        modulation: tuple[Modulation, Modulation],
        norms: tuple[nn.Module, nn.Module],
        rotation: Rotation | None,
    ) -> Tensor:
        """``modulation``: those of the attention and of the MLP branch; ``norms``: those of queries and of keys."""
        attention, mlp = modulation
        x_BND = attention.shift_and_scale(self.input_layernorm(h_BND), L)
        h_BND = h_BND + attention.gate(self.attention(x_BND, norms, rotation), L)
        x_BND = mlp.shift_and_scale(self.post_attention_layernorm(h_BND), L)
        return h_BND + mlp.gate(self.mlp(x_BND), L)


class AdaLN(nn.Module):
    """Modulation and query/key norms of all layers (upstream AdaLNMixin)."""

    def __init__(
        self, params: AdaLNParams, *, num_layers: int, hidden_size: int, head_size: int, emb_dim: int, affine: bool
    ) -> None:
        super().__init__()
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, 12 * hidden_size)) for _ in range(num_layers)
        )
        self.qk_ln = params.qk_ln
        if params.qk_ln:
            for name in ("query_layernorm_list", "key_layernorm_list"):
                norms = (nn.LayerNorm(head_size, eps=1e-6, elementwise_affine=affine) for _ in range(num_layers))
                self.add_module(name, nn.ModuleList(norms))

    def norms(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """Query and key norm of a layer, over the channels of one head."""
        if not self.qk_ln:
            return nn.Identity(), nn.Identity()
        return self.get_submodule(f"query_layernorm_list.{layer}"), self.get_submodule(f"key_layernorm_list.{layer}")

    def modulation(self, layer: int, emb_BE: Tensor) -> tuple[Modulation, Modulation]:
        """The modulations of the attention and of the MLP branch. Of the 12 chunks, video's six are first, then text's."""
        chunks_B223D = self.adaLN_modulations[layer](emb_BE).unflatten(1, (2, 2, 3, -1))  # video|text, branch, kind, D
        text_first_B223D = chunks_B223D.flip(1)
        first, second = (Modulation(*text_first_B223D[:, :, branch].unbind(2)) for branch in (0, 1))
        return first, second


class FinalLayer(nn.Module):
    """Video tokens to patches: modulated norm, Linear (upstream FinalLayerMixin)."""

    def __init__(
        self, params: FinalLayerParams, *, hidden_size: int, emb_dim: int, patch_features: int, affine: bool
    ) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=affine)
        self.linear = nn.Linear(hidden_size, patch_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, 2 * hidden_size))

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h_BND: Tensor, emb_BE: Tensor) -> Tensor:
        shift_B1D, scale_B1D = self.adaLN_modulation(emb_BE)[:, None].chunk(2, dim=2)
        return self.linear(torch.addcmul(shift_B1D, self.norm_final(h_BND), 1 + scale_B1D))
