"""Whether weights belong to what a config describes, from headers alone; nothing is half loaded."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogtune.checkpoints import kinds
from cogtune.checkpoints.folders import read_header
from cogtune.checkpoints.header import Header, Source
from cogtune.checkpoints.lora import our_name, read_lora
from cogtune.checkpoints.shapes import PREFIXES, Shape, derived_names, shapes_of
from cogtune.checkpoints.text_encoder import read_text_encoder
from cogtune.config.build import params_of
from cogtune.config.registry import find
from cogtune.config.schema.dit import (
    DiffusionTransformerParams,
    PatchEmbeddingParams,
)
from cogtune.config.values import Values
from cogtune.errors import UserError

_EMBEDDER = "model.conditioner_config.params.emb_models.0"
_MODEL_DIR = f"{_EMBEDDER}.params.model_dir"
_TRANSFORMER = "CogVideoXTransformer3DModel"
SHOWN = 8
"""Names per list in a message."""


@dataclass(frozen=True)
class Misfit:
    """The differences between weights and a network: missing names, unexpected names, different shapes, and values of the
    weights' config.json that contradict the config."""

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    contradicted: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(self.lists().values())

    def lists(self) -> dict[str, list[str]]:
        """Each list by its title."""
        return {
            "missing": self.missing, "unexpected": self.unexpected, "shape mismatch": self.reshaped,
            "contradicted by config.json": self.contradicted,
        }  # fmt: skip

    def listed(self, limit: int | None = SHOWN) -> str:
        """The lists, each with at most ``limit`` names."""
        lists = self.lists()
        return "\n".join(_listed(title, names, limit) for title, names in lists.items() if names)


def compare(expected: Mapping[str, Shape], sources: Mapping[str, Source], optional: Iterable[str] = ()) -> Misfit:
    """``expected``: name -> shape of every weight; ``optional``: names that may be missing."""
    missing = [name for name in expected if name not in sources and name not in set(optional)]
    unexpected = [name for name in sources if name not in expected]
    reshaped = [
        f"{name}: {sources[name].shape} in the file, expected {shape}"
        for name, shape in expected.items()
        if name in sources and not same_shape(name, sources[name].shape, shape)
    ]
    return Misfit(missing, unexpected, reshaped)


def contradictions(params: Any, config: Mapping[str, Any] | None) -> list[str]:
    """Settings in config.json of a diffusers transformer that contradict ``params`` and cannot be seen from tensor shapes."""
    if not isinstance(params, DiffusionTransformerParams) or (config or {}).get("_class_name") != _TRANSFORMER:
        return []
    rotary = params_of(params.modules["pos_embed_config"]).rotates
    ours = {"use_rotary_positional_embeddings": rotary, "num_attention_heads": params.num_attention_heads}
    stated = {name: config[name] for name in ours if config and name in config}
    return [
        f"{name}: {stated[name]} in config.json, {ours[name]} in the YAML"
        for name in stated
        if stated[name] != ours[name]
    ]


def same_shape(name: str, shape: Shape, expected: Shape) -> bool:
    """Whether shapes are equal, or differ only because 1.0 checkpoints store a convolution instead of a matrix."""
    if name.endswith("patch_embed.proj.weight") and len(shape) == 4:
        shape = (shape[0], math.prod(shape[1:]))
    return shape == expected


def under_adapters(tensors: Mapping[str, Source], own: Iterable[str]) -> dict[str, Source]:
    """Renames `….query_key_value.weight` to `….query_key_value.original.weight` where ``own`` names have it so."""
    wrapped = {name.replace(".original.", "."): name for name in own if ".original." in name}
    return {wrapped.get(name, name): tensor for name, tensor in tensors.items()}


def is_adapter(name: str) -> bool:
    return "matrix_A" in name or "matrix_B" in name


def fit(node: dict[str, Any], header: Header) -> Misfit | None:
    """Compare weights with a ``{target, params}`` node; None if the node's shapes are not known without building it.

    A base checkpoint fits a network with adapters (they keep their initial values); a LoRA fits if all its pairs fit.
    Raises: UserError if the path contains no weights of this component.
    """
    expected = shapes_of(node)
    if expected is None:
        return None
    role = find(node["target"]).role
    roles = kinds.roles(header)
    if role == "network" and roles == ["lora"]:
        return _fit_lora(expected, header)
    if role not in roles:
        contents = f"{' and '.join(kinds.WORDS[each] for each in roles)} weights" if roles else "unknown tensors"
        raise UserError(f"{header.path}: contains {contents}; expected {kinds.WORDS[role]} weights")
    sources = kinds.component(header, PREFIXES[role])
    optional: set[str] = set()
    if role == "network":
        optional |= derived_names(node)
        if not any(map(is_adapter, sources)):
            sources = under_adapters(sources, expected)
            optional |= {name for name in expected if is_adapter(name)}
    else:
        ignored = tuple(params_of(node).ignore_keys)
        sources = {name: tensor for name, tensor in sources.items() if not name.startswith(ignored)}
    misfit = compare(expected, sources, optional)
    return replace(misfit, contradicted=contradictions(params_of(node), header.config))


def adapters_of(header: Header) -> dict[str, Source]:
    """The matrices of a LoRA in our names. Raises UserError as `lora.read_lora`."""
    return {
        our_name(*target, side): getattr(adapter, side)
        for target, adapter in read_lora(header).adapters.items()
        for side in ("A", "B")
    }


def _fit_lora(expected: dict[str, Shape], header: Header) -> Misfit:
    sources = adapters_of(header)
    expected_pairs = {name: shape for name, shape in expected.items() if is_adapter(name)}
    if not expected_pairs:
        raise UserError(f"{header.path}: is a LoRA, but the model has no adapters; add modules.lora_config to the YAML")
    return compare(expected_pairs, sources)


def refusal(path: str | Path, misfit: Misfit, expected: Mapping[str, Shape], sources: Mapping[str, Source]) -> str:
    """The error message for weights that do not fit."""
    named, words = advice(path, misfit, expected, sources)
    return (
        f"{path}: these weights do not fit the configured model.{named}\n{misfit.listed()}\n"
        f"{words}. For the full list, run\n  cogtune weights inspect {path} --full --base YOUR.yaml"
    )


def advice(
    path: str | Path, misfit: Misfit, expected: Mapping[str, Shape], sources: Mapping[str, Source]
) -> tuple[str, str]:
    """(the families, or ""; what to do) for weights that do not fit."""
    if ranks := _other_rank(misfit, expected, sources):
        file_rank, yaml_rank = ranks
        message = (
            f"The LoRA has rank {file_rank}, the YAML r: {yaml_rank}. Set modules.lora_config.params.r: {file_rank}"
        )
        return "", message
    words, named = "Use weights that fit this config", ""
    if "mixins.patch_embed.proj.weight" in expected:
        expected_family = kinds.family(expected)
        file_family = kinds.family({name: tensor.shape for name, tensor in sources.items()})
        if expected_family != file_family and "custom" not in (expected_family, file_family):
            named = f" The weights are {file_family}, the YAML describes {expected_family}."
        words = f"Use the YAML of the weights' family ({', '.join(kinds.FAMILIES)}), or other weights"
    if any(map(is_adapter, misfit.unexpected)):
        words = (
            "They contain LoRA adapters: add modules.lora_config with their rank to the YAML, or merge them with\n"
            f"  cogtune weights convert {path} --to merged\n{words}"
        )
    return named, words


def _other_rank(misfit: Misfit, expected: Mapping[str, Shape], sources: Mapping[str, Source]) -> tuple[int, int] | None:
    """(rank in the file, rank in the YAML) if the adapters' rank is the only difference."""
    if misfit.missing or misfit.unexpected or misfit.contradicted:
        return None
    differ = [name for name, shape in expected.items() if name in sources and sources[name].shape != shape]
    sides = {name: 0 if "matrix_A" in name else 1 for name in differ if is_adapter(name)}
    file_ranks = {sources[name].shape[side] for name, side in sides.items()}
    yaml_ranks = {expected[name][side] for name, side in sides.items()}
    widths = all(sources[name].shape[1 - side] == expected[name][1 - side] for name, side in sides.items())
    if not widths or len(sides) != len(misfit.reshaped) or len(file_ranks) != 1 or len(yaml_ranks) != 1:
        return None
    return file_ranks.pop(), yaml_ranks.pop()


def weight_problems(values: Mapping[str, Any], files: Mapping[str, str]) -> list[tuple[str, str]]:
    """(key, message) for each path in a config whose weights do not fit the config.

    ``values``: canonical config. ``files``: dotted key -> absolute path of the files that it names; missing
    ones are skipped (`config.paths` reports them). Reads headers only: about a second for the largest models.
    """
    model = values.get("model") or {}
    named = {
        "args.load": model.get("network_config"),
        "model.first_stage_config.params.ckpt_path": model.get("first_stage_config"),
    }
    problems = []
    for key, node in named.items():
        if node and key in files and Path(files[key]).exists() and (problem := _problem(files[key], node)):
            problems.append((key, problem))
    if (problem := _text_encoder(values, files)) is not None:
        problems.append((_MODEL_DIR, problem))
    return problems


def _text_encoder(values: Mapping[str, Any], files: Mapping[str, str]) -> str | None:
    """An error message if the folder is not a T5, or its width differs from the network's text_hidden_size."""
    network = (values.get("model") or {}).get("network_config")
    if not network or _MODEL_DIR not in files:
        return None
    folder = Path(files[_MODEL_DIR])
    if not folder.exists() or Values(dict(values)).get(f"{_EMBEDDER}.target") != "T5Embedder":
        return None  # a plugin's encoder has its own folder format
    try:
        width = read_text_encoder(folder).config.get("d_model")
    except UserError as error:
        return str(error)
    patch = params_of(network["params"]["modules"]["patch_embed_config"])
    if width is None or not isinstance(patch, PatchEmbeddingParams) or width == patch.text_hidden_size:
        return None
    return f"{folder}: T5 of width {width}; expected {patch.text_hidden_size} (text_hidden_size of patch_embed_config)"


def _problem(path: str, node: dict[str, Any]) -> str | None:
    role = find(node["target"]).role
    try:
        header = read_header(path, component="vae" if role == "autoencoder" else "transformer")
        if role == "network" and kinds.roles(header) == ["lora"]:
            return (
                f"{path}: a LoRA without base weights; merge the two first:\n"
                f"  cogtune weights convert BASE_WEIGHTS --lora {path} --to sat"
            )
        misfit = fit(node, header)
    except UserError as error:
        return str(error)
    if not misfit:
        return None
    return refusal(path, misfit, shapes_of(node) or {}, kinds.component(header, PREFIXES[role]))


def _listed(title: str, names: list[str], limit: int | None) -> str:
    limit = len(names) if limit is None else limit
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"  {title} ({len(names)}): {', '.join(names[:limit])}{more}"
