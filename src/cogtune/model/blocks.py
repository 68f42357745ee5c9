"""One transformer layer, its adaptive modulation, and the final layer.

The sequence is [text; video] in one tensor h_BND all the way: both share every weight but the modulation, which has
separate shift, scale and gate for the text and for the video part. m_B2D below holds (text, video) on its axis 1.
Parameter names are those of upstream's checkpoints, which keep a layer's modulation and query/key norms apart from it
(`mixins.adaln_layer`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogtune.config.schema.dit import AdaLNParams, FinalLayerParams
from cogtune.model.gelu import Gelu, gelu
from cogtune.model.modulation import ModulatedLayerNorm, gated_add
from cogtune.model.positions import rotate
from cogtune.model.projections import QueryKeyValue
from cogtune.model.recompute import Recipe, recomputed


class Modulation(NamedTuple):
    """Shift, scale and gate of one branch, each (B, 2, D) for (text, video)."""

    shift_B2D: Tensor
    scale_B2D: Tensor
    gate_B2D: Tensor


class Attention(nn.Module):
    """Full attention over text and video tokens; no mask, so padding of the caption takes part, as in training."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value: nn.Module = QueryKeyValue(hidden_size)
        self.dense: nn.Module = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        h_BND: Tensor,
        h_again: Recipe,
        norms: tuple[nn.Module, nn.Module],
        rotation: Tensor | None,
        recompute: bool,
    ) -> Tensor:
        with recomputed((h_BND, h_again), enabled=recompute):
            q_BNHD, k_BNHD, v_BNHD = (y.unflatten(-1, (self.heads, -1)) for y in self.query_key_value(h_BND))
        (q_BNHD, q_again), (k_BNHD, k_again) = (
            _positioned(x, norm, rotation) for x, norm in zip((q_BNHD, k_BNHD), norms, strict=True)
        )
        q_BHND, k_BHND, v_BHND = q_BNHD.transpose(1, 2), _by_head(k_BNHD), _by_head(v_BNHD)
        del k_BNHD, v_BNHD  # where those are copies, the originals are not held beside them
        with recomputed((q_BHND, q_again), (k_BHND, lambda: _by_head(k_again())), enabled=recompute):
            y_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND)
        return self.dense(y_BHND.transpose(1, 2).flatten(2))


def _by_head(x_BNHD: Tensor) -> Tensor:
    """(B, H, N, D). On a CPU a head's keys and values lie together: each block of queries goes through all of them, which
    takes longer in rows far apart than the copy does. Not so the queries: the result takes their layout, and `dense`
    reads it as they lie."""
    x_BHND = x_BNHD.transpose(1, 2)
    return x_BHND.contiguous() if x_BHND.device.type == "cpu" else x_BHND


def _positioned(x_BNHD: Tensor, norm: nn.Module, rotation: Tensor | None) -> tuple[Tensor, Recipe]:
    """Queries or keys after norm and rotation, and the recipe to make them again."""
    y_BNHD = norm(x_BNHD)
    weight, bias = (
        None if p is None else p.detach().clone() for p in (getattr(norm, n, None) for n in ("weight", "bias"))
    )
    kept_BNHD = x_BNHD.detach()

    def again() -> Tensor:
        y_BNHD = kept_BNHD
        if isinstance(norm, nn.LayerNorm):
            y_BNHD = F.layer_norm(kept_BNHD, norm.normalized_shape, weight, bias, norm.eps)
        return y_BNHD if rotation is None else rotate(y_BNHD, rotation)

    return y_BNHD if rotation is None else rotate(y_BNHD, rotation), again


class Mlp(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, 4 * hidden_size)
        self.dense_4h_to_h = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, h_BND: Tensor, h_again: Recipe, recompute: bool) -> Tensor:
        with recomputed((h_BND, h_again), enabled=recompute):
            inner_BNM = self.dense_h_to_4h(h_BND)
        active_BNM, kept_BNM = Gelu.apply(inner_BNM), inner_BNM.detach()
        with recomputed((active_BNM, lambda: gelu(kept_BNM)), enabled=recompute):
            return self.dense_4h_to_h(active_BNM)


class TransformerLayer(nn.Module):
    """Attention and MLP, each as h + gate * branch(norm(h) * (1 + scale) + shift)."""

    def __init__(self, hidden_size: int, heads: int, affine: bool) -> None:
        super().__init__()
        self.input_layernorm = ModulatedLayerNorm(hidden_size, eps=1e-5, elementwise_affine=affine)
        self.attention = Attention(hidden_size, heads)
        self.post_attention_layernorm = ModulatedLayerNorm(hidden_size, eps=1e-5, elementwise_affine=affine)
        self.mlp = Mlp(hidden_size)

    def forward(
        self,
        h_BND: Tensor,
        text_length: int,
        modulation: tuple[Modulation, Modulation],
        norms: tuple[nn.Module, nn.Module],
        rotation: Tensor | None,
        recompute: bool,
    ) -> Tensor:
        """``recompute``: keep less for the backward pass (`recompute.py`); off inside activation checkpointing."""
        first, second = modulation
        normed = self.input_layernorm(h_BND, text_length, first.shift_B2D, first.scale_B2D)
        h_BND = gated_add(h_BND, self.attention(*normed, norms, rotation, recompute), first.gate_B2D, text_length)
        normed = self.post_attention_layernorm(h_BND, text_length, second.shift_B2D, second.scale_B2D)
        return gated_add(h_BND, self.mlp(*normed, recompute), second.gate_B2D, text_length)


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
        """Query and key norm of a layer, over one head's channels."""
        if not self.qk_ln:
            return nn.Identity(), nn.Identity()
        return self.get_submodule(f"query_layernorm_list.{layer}"), self.get_submodule(f"key_layernorm_list.{layer}")

    def modulation(self, layer: int, emb_BE: Tensor) -> tuple[Modulation, Modulation]:
        """Of the attention and of the MLP branch. The 12 chunks come as video's six, then text's six."""
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
