"""cogtune tunes CogVideoX: a Snakemake workflow, and this package under it.

The few functions that a notebook needs, imported when first used:

    config = cogtune.load_config(["cogvideox_2b_lora.yaml", "sft.yaml"], overrides=["model.scale_factor=0.7"])
    dit = cogtune.build(config.model.network_config)    # any {target, params} node, upstream's names or ours
    cogtune.load_weights(dit, "weights/cogvideox-2b/transformer")
    cogtune.load_result("results/demo").generate("a rabbit waves", seed=7).save("rabbit.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogtune.config.build import build
    from cogtune.config.plugins import allow_plugins
    from cogtune.errors import UserError
    from cogtune.model.weights import load_weights
    from cogtune.result import load_result
    from cogtune.work.load import load_config

_HOMES = {
    "load_config": "cogtune.work.load",
    "allow_plugins": "cogtune.config.plugins",
    "build": "cogtune.config.build",
    "load_weights": "cogtune.model.weights",
    "load_result": "cogtune.result",
    "UserError": "cogtune.errors",
}
__all__ = ["UserError", "allow_plugins", "build", "load_config", "load_result", "load_weights"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cogtune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
