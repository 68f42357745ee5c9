"""The models that a new experiment can start from."""

from dataclasses import dataclass

from cogtune.checkpoints.published import FIRST, MODELS, NEWER, PublishedModel
from cogtune.config.key_types import nearest
from cogtune.errors import UserError

TOY = "toy"
_SFT = "config/sft.yaml"
_SKIP = 3
"""`skip_frms_num` of config/sft.yaml."""


@dataclass(frozen=True)
class Training:
    """``base``: the SAT files. ``rate``: peak learning rate, of this model's kind of training. ``steps``: optimizer steps.
    ``batch``: clips per step that are aimed at."""

    base: tuple[str, ...]
    rate: float
    steps: int
    batch: int


@dataclass(frozen=True)
class StartModel:
    """``size``: (height, width) of its clips. ``frames``: at most; ``fps``. ``skip``: source frames that its config leaves out
    at either end. ``precision``: fp32, bf16 or fp16."""

    name: str
    title: str
    size: tuple[int, int]
    frames: int
    fps: float
    skip: int
    precision: str
    lora: Training
    full: Training

    @property
    def is_toy(self) -> bool:
        return self.name == TOY

    def training(self, lora: bool) -> Training:
        """How it is trained."""
        return self.lora if lora else self.full


# Rates at lora_alpha 1 (config/lora.yaml) and of full tuning (config/sft.yaml), and their numbers of steps, are upstream's.
_LORA_RATE, _FULL_RATE = 1e-3, 1e-5
_LORA_STEPS, _FULL_STEPS = 1000, 500
_LORA_BATCH, _FULL_BATCH = 4, 16

_TOY = StartModel(
    TOY, "the demo's toy", (64, 96), 9, 8, 0, "fp32",
    # Rates and batch of config/tiny; a LoRA there starts from the result of `demo`.
    lora=Training(("config/tiny/demo_lora.yaml",), 2e-3, 1000, 8),
    # Half the steps of the demo, whose 16 clips are seen as often as 8 clips then.
    full=Training(("config/tiny/demo.yaml",), 1e-3, 500, 8),
)  # fmt: skip


def _start(model: PublishedModel) -> StartModel:
    clips = NEWER if "1.5" in model.name else FIRST
    return StartModel(
        model.name,
        model.title,
        clips.size,
        clips.frames,
        clips.fps,
        _SKIP,
        "fp16" if model.name.endswith("2b") else "bf16",
        # The rate of sft.yaml is for full tuning, so a LoRA file follows it.
        lora=Training((_SFT, model.lora), _LORA_RATE, _LORA_STEPS, _LORA_BATCH),
        full=Training((model.full, _SFT), _FULL_RATE, _FULL_STEPS, _FULL_BATCH),
    )


START_MODELS = {model.name: model for model in (*map(_start, MODELS.values()), _TOY)}
"""Name -> model."""


def start_model(name: str) -> StartModel:
    """The model of ``--model``. Raises UserError for an unknown name."""
    if name in START_MODELS:
        return START_MODELS[name]
    near = nearest(name.lower(), START_MODELS)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"expected one of {', '.join(START_MODELS)}"
    raise UserError(f"--model {name}: unknown model; {hint}")
