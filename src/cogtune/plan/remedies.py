"""Settings that make a stage need less memory, and what each one saves in a given config."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from cogtune.config.geometry import FRAMES_PER_LATENT
from cogtune.config.leaves import parse_path
from cogtune.config.schema.checkpointing import Policy
from cogtune.config.schema.checkpointing import canonical as policy_value
from cogtune.config.values import Values
from cogtune.plan.cost.training import zero_stage
from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.plan.stage_cost import StageCost

NETWORK_POLICY = "model.network_config.params.transformer_args.checkpoint_activations"
LORA_RANK = "model.network_config.params.modules.lora_config.params.r"
SMALL_RANK = 32
_LORA = "model.network_config.params.modules.lora_config"
_SHIPPED_LORA = {"target": "Lora", "params": {"r": 128, "lora_alpha": 1.0, "lora_dropout": 0.0, "layer_range": None}}
_TILE = 256
"""Pixels. Of the VAE's tiles, in each direction; the published VAEs see 480 x 720."""


@dataclass(frozen=True)
class Remedy:
    """``text``: what to set, as after `--`, or in words. ``values``: the canonical values that it means, by dotted key."""

    text: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Saving:
    """``bytes``: what the stage needs with this remedy alone."""

    remedy: Remedy
    bytes: float


def changed(values: Mapping[str, Any], changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A copy of canonical values with ``changes`` (dotted key -> value), in order."""
    copy = deepcopy(dict(values))
    for key, value in ((key, value) for each in changes for key, value in each.items()):
        *path, last = parse_path(key)
        node: Any = copy
        for name in path:
            node = node[name] if not isinstance(node, dict) else node.setdefault(name, {})
        node[last] = value
    return copy


def with_remedies(cost: StageCost, remedies: Iterable[Remedy]) -> StageCost:
    """The stage's cost with remedies applied."""
    return type(cost)(Costs(changed(cost.costs.values, (one.values for one in remedies)), cost.costs.model_dir))


def savings(stage: str, cost: StageCost, ranks: int) -> list[Saving]:
    """The remedies that save memory in this config, the one that saves most first; none that is set already does."""
    now, effective = cost.device_bytes(ranks), list[Saving]()
    for remedy in remedies_of(stage, cost.costs, ranks):
        try:
            needed = with_remedies(cost, [remedy]).device_bytes(ranks)
        except Unmodelled:
            continue
        if needed < 0.99 * now:
            effective.append(Saving(remedy, needed))
    return sorted(effective, key=lambda saving: saving.bytes)


def remedies_of(stage: str, costs: Costs, ranks: int) -> list[Remedy]:
    """What may save memory in a stage, whether or not it is set already."""
    known = {"train": _train, "latents": _latents, "images": _images, "text": _text, "sample": _sample}
    known["evaluate"] = _evaluate
    return list(known[stage](costs, ranks)) if stage in known else []


def _train(costs: Costs, ranks: int) -> Iterator[Remedy]:
    full = policy_value(Policy.FULL.value)
    yield Remedy("args.checkpoint_activations=full", {"args.checkpoint_activations": full, NETWORK_POLICY: full})
    yield _set("deepspeed.train_micro_batch_size_per_gpu", 1)
    stage = zero_stage(costs.deepspeed)
    if stage > 0:
        yield _set("deepspeed.zero_optimization.offload_optimizer.device", "cpu")
    if stage < 3 and ranks > 1:
        yield _set("deepspeed.zero_optimization.stage", 3)
    if costs.only_adapters:
        if Values(dict(costs.values)).get(LORA_RANK, 0) > SMALL_RANK:
            yield _set(LORA_RANK, SMALL_RANK)
    else:
        lora = {_LORA: _SHIPPED_LORA, "model.not_trainable_prefixes": ["all"]}
        yield Remedy("a LoRA (config/lora.yaml) in place of full tuning", lora)
    frames, *_ = costs.clip
    if (fewer := (frames // FRAMES_PER_LATENT // 2) * FRAMES_PER_LATENT + 1) < frames:
        yield _set("data.params.max_num_frames", fewer)


def _latents(costs: Costs, ranks: int) -> Iterator[Remedy]:
    yield _set("args.encode_batch", 1)
    yield _tile("encode")
    yield _vae("encode_batch_frames", 8)


def _images(costs: Costs, ranks: int) -> Iterator[Remedy]:
    yield _tile("encode")


def _text(costs: Costs, ranks: int) -> Iterator[Remedy]:
    yield _set("args.text_batch", 1)
    yield _set("args.encoder_precision", "bf16")


def _sample(costs: Costs, ranks: int) -> Iterator[Remedy]:
    yield _set("args.sampling_batch", 1)
    yield _tile("decode")
    yield _set("args.bf16", True)


def _evaluate(costs: Costs, ranks: int) -> Iterator[Remedy]:
    yield _tile("decode")
    yield _set("args.encoder_precision", "bf16")


def _set(key: str, value: Any) -> Remedy:
    return Remedy(f"{key}={value}", {key: value})


def _vae(name: str, value: Any) -> Remedy:
    key = f"model.first_stage_config.params.{name}"
    return Remedy(f"{key}={value}".replace(" ", ""), {key: value})


def _tile(coder: str) -> Remedy:
    return _vae(f"{coder}_tile_size", [_TILE, _TILE])
