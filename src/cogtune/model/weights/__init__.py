"""Load and write weights: SAT, diffusers, LoRA."""

from cogtune.model.weights.load import load_weights

__all__ = ["load_weights"]
