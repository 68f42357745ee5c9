"""`cogtune weights inspect`: show the contents of weights and the configs that they fit. Reads headers only."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogtune.checkpoints import fit, kinds
from cogtune.checkpoints.folders import components, read_header
from cogtune.checkpoints.header import Header
from cogtune.checkpoints.lora import adapted_modules, read_lora
from cogtune.checkpoints.shapes import PREFIXES, shapes_of
from cogtune.config.errors import ConfigErrors
from cogtune.config.registry import find
from cogtune.errors import UserError
from cogtune.work.load import load_config

_SECTIONS = ("network_config", "first_stage_config")


def run(path: Path, base: Sequence[str], as_json: bool, full: bool) -> int:
    """Print the contents of ``path``; return 1 if it does not fit the config of ``base``. Raises UserError, and
    ConfigErrors for an invalid ``base``."""
    model = load_config(base, check_files=False, partial=True).values.get("model") if base else None
    description = describe(path, {" ".join(base): model} if model else {} if base else shipped())
    print(json.dumps(description, indent=2) if as_json else "\n".join(_lines(description, full)))
    return int(bool(base) and not _all_fit(description["configs"]))


def shipped() -> dict[str, dict[str, Any]]:
    """The model section of each file in ./config that describes a complete model."""
    models = {}
    for file in sorted([*Path("config").glob("*.yaml"), *Path("config/tiny").glob("*.yaml")]):
        try:
            models[str(file)] = load_config([file], check_files=False, partial=True).values.get("model")
        except (ConfigErrors, UserError):
            continue  # a partial config, such as an overlay, is not a model
    return {file: model for file, model in models.items() if model}


def describe(path: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe weights. ``configs``: canonical model section by name. Raises UserError if ``path`` is not a weight file."""
    headers = [read_header(path, component) for component in components(path)] or [read_header(path)]
    holds = [part for header in headers for part in _parts(header)]
    if not holds:
        raise UserError(f"{path}: contains {len(headers[0].tensors)} tensors, but no known component")
    checked = {name: fits for name, model in configs.items() if (fits := _fits(headers, model))}
    layout = headers[0].layout if len(headers) == 1 else "diffusers pipeline"
    description = {"path": str(path), "layout": layout, "holds": holds, "configs": checked}
    return description | (
        {"advice": advice} if len(configs) == 1 and (advice := _advice(path, headers, *configs.values())) else {}
    )


def _advice(path: Path, headers: Sequence[Header], model: Mapping[str, Any]) -> str:
    """What to do if the network does not fit the given config; "" if it fits."""
    node = model.get("network_config")
    if node is None:
        return ""
    for header in headers:
        try:
            misfit, inside = fit.fit(node, header), kinds.roles(header)
            expected = shapes_of(node) or {}
            sources = fit.adapters_of(header) if inside == ["lora"] else kinds.component(header, PREFIXES["network"])
        except UserError:
            continue  # not a network, or the error is already in the verdict
        if misfit:
            return " ".join(fit.advice(path, misfit, expected, sources)).strip()
    return ""


def _parts(header: Header) -> list[dict[str, Any]]:
    return [_lora(header) if role == "lora" else _component(header, role) for role in kinds.roles(header)]


def _component(header: Header, role: str) -> dict[str, Any]:
    tensors = kinds.component(header, PREFIXES[role])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    description = {
        "component": kinds.WORDS[role],
        "names": "transformers" if role == "embedder" else kinds.spelling(header),
        "parameters": kinds.parameters(tensors),
        "dtypes": kinds.dtypes(tensors),
    }
    if role == "network":
        description |= {"family": kinds.family(shapes), "sizes": kinds.sizes(shapes)}
        pairs = {name: shape for name, shape in shapes.items() if ".matrix_A." in name}
        if pairs:
            description["adapters"] = {
                "rank": sorted({shape[0] for shape in pairs.values()}),
                "alpha": "not in the file",
            }
    return description | _facts(header)


def _lora(header: Header) -> dict[str, Any]:
    try:
        lora = read_lora(header)
    except UserError as error:
        return _unusable(header, str(error).removeprefix(f"{header.path}: "))
    first = next(iter(lora.adapters.values()))
    scale = lora.scales[0] if len(lora.scales) == 1 else None
    rank = lora.ranks[0] if len(lora.ranks) == 1 else None
    tensors = {name: tensor for name, tensor in header.tensors.items() if not name.endswith(".alpha")}
    return {
        "component": "LoRA",
        "names": lora.form,
        "parameters": kinds.parameters(tensors),
        "dtypes": kinds.dtypes(tensors),
        "family": kinds.lora_families((layer for layer, _ in lora.adapters), first.A.shape[1]) or ["custom"],
        "layers": sorted({layer for layer, _ in lora.adapters}),
        "rank": rank or lora.ranks,
        "alpha": scale * rank if scale is not None and rank else "not in the file" if None in lora.scales else "varies",
        "strength": scale if scale is not None else None,
    } | _facts(header)


def _unusable(header: Header, why: str) -> dict[str, Any]:
    """A LoRA that adapts unsupported layers, or has no alpha."""
    return {
        "component": "LoRA",
        "names": "other",
        "parameters": kinds.parameters(header.tensors),
        "dtypes": kinds.dtypes(header.tensors),
        "adapted": adapted_modules(header.tensors),
        "unusable": why,
    } | _facts(header)


def _facts(header: Header) -> dict[str, Any]:
    """cogtune's own metadata, if the file was written by cogtune."""
    try:
        metadata = json.loads(header.metadata.get("cogtune", "{}"))
    except ValueError:
        return {}
    return {"cogtune": metadata} if isinstance(metadata, dict) and metadata else {}


def _fits(headers: Sequence[Header], model: Mapping[str, Any]) -> dict[str, Any]:
    """Component -> "fits", or the lists of differences."""
    out: dict[str, Any] = {}
    for section in _SECTIONS:
        node = model.get(section)
        if node is None:
            continue
        role = find(node["target"]).role
        for header in headers:
            inside = kinds.roles(header)
            if role in inside or (role == "network" and inside == ["lora"]):
                out[kinds.WORDS[inside[0] if inside == ["lora"] else role]] = _fit(node, header)
    return out


def _fit(node: dict[str, Any], header: Header) -> Any:
    try:
        misfit = fit.fit(node, header)
    except UserError as error:
        return str(error).removeprefix(f"{header.path}: ")
    return misfit.lists() if misfit else "fits"


def _all_fit(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(configs) and all(_is_fit(verdict) for parts in configs.values() for verdict in parts.values())


def _is_fit(verdict: Any) -> bool:
    return verdict == "fits"


def _lines(description: Mapping[str, Any], full: bool) -> list[str]:
    lines = [f"{description['path']}: {description['layout']}"]
    for part in description["holds"]:
        lines += [f"  {part['component']}, {part['names']} names: {_kind(part)}"]
        lines += [f"    {name}: {value}" for name, value in (part.get("cogtune") or {}).items()]
    for component in dict.fromkeys(name for parts in description["configs"].values() for name in parts):
        verdicts: dict[str, list[str]] = {}
        for name, parts in description["configs"].items():
            if component in parts:
                verdicts.setdefault(_verdict(parts[component], full), []).append(name)
        ordered = sorted(verdicts.items(), key=lambda item: item[0] != "fits")
        for text, names in ordered:
            verdict, colon, why = text.partition(":")
            lines.append(f"  {component} {verdict} {', '.join(names)}{colon}{why}")
    return lines + ([description["advice"]] if "advice" in description else [])


def _kind(part: Mapping[str, Any]) -> str:
    family = part.get("family")
    words = [" or ".join(family) if isinstance(family, list) else family] if family else []
    words += [f"{part['parameters']:,} parameters", "/".join(part["dtypes"])]
    if family == "custom":
        words += [", ".join(f"{name} {value}" for name, value in part["sizes"].items())]
    if "unusable" in part:
        words += [f"adapts {', '.join(part['adapted'])}", f"not supported: {part['unusable']}"]
    if "rank" in part:
        words += [f"{len(part['layers'])} layers", f"rank {part['rank']}", f"alpha {part['alpha']}"]
        words += [f"strength {part['strength']:.6g}"] if part["strength"] is not None else []
    if "adapters" in part:
        words += [f"with LoRA adapters of rank {', '.join(map(str, part['adapters']['rank']))}, alpha only in the YAML"]
    return ", ".join(words)


def _verdict(verdict: Any, full: bool) -> str:
    if _is_fit(verdict):
        return "fits"
    if isinstance(verdict, str):
        return f"does not fit: {verdict}"
    if full:
        return "does not fit:\n" + fit.Misfit(*verdict.values()).listed(None)
    counts = ", ".join(f"{len(names)} {title}" for title, names in verdict.items() if names)
    first = next(name for names in verdict.values() for name in names)
    return f"does not fit: {counts}, e.g. {first}"
