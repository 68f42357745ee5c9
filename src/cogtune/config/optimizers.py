"""Optimizers: names that mean one of the registry's, names that are not supported, and the ZeRO stages of each."""

from collections.abc import Mapping

MEAN_ADAM = (
    "adam", "FusedAdam", "CPUAdam", "DeepSpeedCPUAdam",
    "deepspeed.ops.adam.FusedAdam", "deepspeed.ops.adam.DeepSpeedCPUAdam",
)  # fmt: skip
"""DeepSpeed's implementations of one optimizer: AdamW, unless `adam_w_mode` is false."""

_PLUGIN = "a plugin can add it (docs/plugins.md)"
_ELEMENTWISE = f"not built in; {_PLUGIN}, with `elementwise = True` for ZeRO stages 1 to 3"
_NORMS = f"it scales each tensor's update by norms of that tensor, and ZeRO flattens tensors at stages 1 to 3; {_PLUGIN} at stage 0"
_SHAPES = f"it needs each tensor's shape, and ZeRO flattens tensors at stages 1 to 3; {_PLUGIN} at stage 0"
_GLOBAL = f"its step size is a sum over all weights, of which a rank sees its part only; {_PLUGIN} at stage 0"
_COMPRESSED = "it compresses the communication itself, which ZeRO does here; use AdamW"
_MUP = "it needs the package mup and a network with muP's shapes; use AdamW"
_BITS = "only AdamW8bit has 8-bit states; set type: AdamW8bit"

UNSUPPORTED = {
    "Muon": "DeepSpeed's orthogonalises gradients before it clips them, so gradient_clipping would cut the update itself, "
    f"and it keeps no moving average; of others: {_SHAPES}",
    **dict.fromkeys(("Lamb", "FusedLamb", "deepspeed.ops.lamb.FusedLamb", "LARS"), _NORMS),
    **dict.fromkeys(("Adafactor", "CAME", "Shampoo", "SOAP", "GaLore"), _SHAPES),
    **dict.fromkeys(("Prodigy", "DAdaptation", "DAdaptAdam"), _GLOBAL),
    **dict.fromkeys(("OneBitAdam", "ZeroOneAdam", "OneBitLamb"), _COMPRESSED),
    **dict.fromkeys(("MuAdam", "MuAdamW", "MuSGD"), _MUP),
    **dict.fromkeys(("Adam8bit", "PagedAdamW8bit", "Lion8bit", "AdamW4bit", "AdamWFp8"), _BITS),
    **dict.fromkeys(
        ("Lion", "FusedLion", "DeepSpeedCPULion", "Adagrad", "DeepSpeedCPUAdagrad", "SGD", "RMSprop", "RAdam", "NAdam",
         "Adan", "AdEMAMix"), _ELEMENTWISE,
    ),
    "Sophia": "it estimates the curvature by further backward passes, which the loop does not make; use AdamW",
    "AdamWScheduleFree": "validation and export need other weights than the steps, and the loop sets the rate of each step; "
    "use AdamW, or FusedEmaAdam for an average",
    "torch.optim.Adam": "its decay is L2, DeepSpeed's Adam decouples it; set type: Adam, with adam_w_mode: false for L2",
}  # fmt: skip
UNSUPPORTED |= {name.lower(): why for name, why in UNSUPPORTED.items() if "." not in name}
"""DeepSpeed reads names in any case."""


_ALL_STAGES = dict.fromkeys(range(4), "")
_FLATTENED = (
    "with a plugin's optimizer: ZeRO gives it flat tensors, of which each rank has a part, so an optimizer that looks at whole "
    "tensors or their shapes goes wrong; set it to 0, or, if each weight's update depends only on that weight's gradient and "
    "state, add `elementwise = True` to the class"
)
STAGES: Mapping[str, Mapping[int, str]] = {
    "FusedEmaAdam": _ALL_STAGES,
    "AdamW": _ALL_STAGES,
    "Adam": _ALL_STAGES,
    "AdamW8bit": _ALL_STAGES,  # one scale for 256 moments, so other parts of the ranks are other scales: within 1 %
}
"""Optimizer -> ZeRO stage -> why it is refused there, "" if it is accepted: two ranks give the weights of one (fp32: within
1e-5). `tests/unit/train/test_optimizers.py` trains every pair."""
ELEMENTWISE, ON_TENSORS = _ALL_STAGES, _ALL_STAGES | dict.fromkeys((1, 2, 3), _FLATTENED)
"""The rows of plugins that say `elementwise = True`, and of others."""


def plugin_stages(optimizer: type) -> Mapping[int, str]:
    """The row of a plugin's class."""
    return ELEMENTWISE if getattr(optimizer, "elementwise", False) is True else ON_TENSORS
