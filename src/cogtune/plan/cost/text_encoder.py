"""Cost of the T5 encoder, from its config.json (names of transformers)."""

import json
from dataclasses import dataclass
from pathlib import Path

from cogtune.runtime.typed_json import from_json


@dataclass(frozen=True)
class T5Sizes:
    """The part of transformers' T5Config that costs depend on, with its defaults."""

    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    vocab_size: int
    feed_forward_proj: str = "relu"
    relative_attention_num_buckets: int = 32


XXL = T5Sizes(4096, 64, 10240, 24, 64, 32128, "gated-gelu")
"""google/t5-v1_1-xxl, CogVideoX's text encoder: assumed if there is no valid config.json."""


@dataclass(frozen=True)
class TextEncoder:
    """A T5 encoder."""

    sizes: T5Sizes

    @classmethod
    def of(cls, folder: str | Path) -> "TextEncoder":
        """The encoder in a folder of transformers, or of diffusers with ``text_encoder/`` in it."""
        root = Path(folder)
        for path in (root / "text_encoder" / "config.json", root / "config.json"):
            try:
                return cls(from_json(T5Sizes, json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError):
                continue
        return cls(XXL)

    @property
    def width(self) -> int:
        return self.sizes.d_model

    @property
    def parameters(self) -> int:
        """Embeddings, layers, the relative position bias of the first layer, and the last norm."""
        s = self.sizes
        biases = s.relative_attention_num_buckets * s.num_heads
        return s.vocab_size * s.d_model + s.num_layers * self._layer + biases + s.d_model

    @property
    def _products(self) -> int:
        """Weights of a layer's matrices: q, k, v, o, and two (gated: three) of the feed-forward network."""
        s = self.sizes
        gated = s.feed_forward_proj.startswith("gated")
        return 4 * s.d_model * s.num_heads * s.d_kv + (3 if gated else 2) * s.d_model * s.d_ff

    @property
    def _layer(self) -> int:
        return self._products + 2 * self.sizes.d_model

    def flops(self, tokens: int) -> float:
        """FLOPs of one caption, padded to ``tokens``."""
        s = self.sizes
        attention = 4 * tokens**2 * s.num_heads * s.d_kv
        return s.num_layers * (2.0 * tokens * self._products + attention)

    def bytes(self, tokens: int, batch: int, element: int) -> float:
        """Peak memory: the weights, and the tensors of one layer. ``element``: bytes per number."""
        s = self.sizes
        layer = 4 * s.d_model + 3 * s.d_ff + 4 * s.num_heads * s.d_kv
        scores = 2 * s.num_heads * tokens
        return (self.parameters + batch * tokens * (layer + scores)) * element
