"""Cost of the T5 encoder, from its config.json (transformers' names)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

XXL: Mapping[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}
"""google/t5-v1_1-xxl, CogVideoX's text encoder: assumed if there is no valid config.json."""


@dataclass(frozen=True)
class TextEncoder:
    """``sizes``: a T5Config as a mapping."""

    sizes: Mapping[str, Any]

    @classmethod
    def of(cls, folder: str | Path) -> "TextEncoder":
        """Of a folder in transformers' layout, or in diffusers' with ``text_encoder/`` in it."""
        root = Path(folder)
        for path in (root / "text_encoder" / "config.json", root / "config.json"):
            try:
                sizes = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(sizes, dict) and XXL.keys() - {"feed_forward_proj"} <= sizes.keys():
                return cls(sizes)
        return cls(XXL)

    @property
    def width(self) -> int:
        return self.sizes["d_model"]

    @property
    def parameters(self) -> int:
        """Embeddings, layers, the first layer's relative position bias, the last norm."""
        s = self.sizes
        biases = s.get("relative_attention_num_buckets", 32) * s["num_heads"]
        return s["vocab_size"] * s["d_model"] + s["num_layers"] * self._layer + biases + s["d_model"]

    @property
    def _products(self) -> int:
        """Weights of a layer's matrices: q, k, v, o, and two or, gated, three of the feed-forward."""
        s = self.sizes
        gated = str(s.get("feed_forward_proj", "relu")).startswith("gated")
        return 4 * s["d_model"] * s["num_heads"] * s["d_kv"] + (3 if gated else 2) * s["d_model"] * s["d_ff"]

    @property
    def _layer(self) -> int:
        return self._products + 2 * self.sizes["d_model"]

    def flops(self, tokens: int) -> float:
        """One caption, padded to ``tokens``."""
        s = self.sizes
        attention = 4 * tokens**2 * s["num_heads"] * s["d_kv"]
        return s["num_layers"] * (2.0 * tokens * self._products + attention)

    def bytes(self, tokens: int, batch: int, element: int) -> float:
        """Peak: the weights and one layer's tensors."""
        s = self.sizes
        layer = 4 * s["d_model"] + 3 * s["d_ff"] + 4 * s["num_heads"] * s["d_kv"]
        scores = 2 * s["num_heads"] * tokens
        return (self.parameters + batch * tokens * (layer + scores)) * element
