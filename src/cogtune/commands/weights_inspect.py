"""`cogtune weights inspect`: what a path holds, and which configs it fits. Reads headers only."""

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
    """Print what ``path`` holds; returns 1 if it does not fit the config that ``base`` names. Raises UserError, and
    ConfigErrors for a ``base`` that is no config."""
    model = load_config(base, check_files=False, partial=True).values.get("model") if base else None
    found = describe(path, {" ".join(base): model} if model else {} if base else shipped())
    print(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found, full)))
    return int(bool(base) and not _all_fit(found["configs"]))


def shipped() -> dict[str, dict[str, Any]]:
    """The model section of each file in ./config that describes a whole model."""
    found = {}
    for file in sorted([*Path("config").glob("*.yaml"), *Path("config/tiny").glob("*.yaml")]):
        try:
            found[str(file)] = load_config([file], check_files=False, partial=True).values.get("model")
        except (ConfigErrors, UserError):
            continue  # a part of a config, such as an overlay, is no model by itself
    return {file: model for file, model in found.items() if model}


def describe(path: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``configs``: canonical model section by name. Raises UserError for what is no weights."""
    headers = [read_header(path, component) for component in components(path)] or [read_header(path)]
    holds = [part for header in headers for part in _parts(header)]
    if not holds:
        raise UserError(f"{path}: holds {len(headers[0].tensors)} tensors of no known component")
    checked = {name: fits for name, model in configs.items() if (fits := _fits(headers, model))}
    layout = headers[0].layout if len(headers) == 1 else "diffusers pipeline"
    found = {"path": str(path), "layout": layout, "holds": holds, "configs": checked}
    return found | (
        {"advice": said} if len(configs) == 1 and (said := _advice(path, headers, *configs.values())) else {}
    )


def _advice(path: Path, headers: Sequence[Header], model: Mapping[str, Any]) -> str:
    """What to do about a network that does not fit the one config that was asked about; "" where it fits."""
    node = model.get("network_config")
    if node is None:
        return ""
    for header in headers:
        try:
            misfit, inside = fit.fit(node, header), kinds.roles(header)
            expected = shapes_of(node) or {}
            given = fit.adapters_of(header) if inside == ["lora"] else kinds.component(header, PREFIXES["network"])
        except UserError:
            continue  # it is no network, or the verdict has said what is wrong
        if misfit:
            return " ".join(fit.advice(path, misfit, expected, given)).strip()
    return ""


def _parts(header: Header) -> list[dict[str, Any]]:
    return [_lora(header) if role == "lora" else _component(header, role) for role in kinds.roles(header)]


def _component(header: Header, role: str) -> dict[str, Any]:
    tensors = kinds.component(header, PREFIXES[role])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    found = {
        "component": kinds.WORDS[role],
        "names": "transformers" if role == "embedder" else kinds.spelling(header),
        "parameters": kinds.parameters(tensors),
        "dtypes": kinds.dtypes(tensors),
    }
    if role == "network":
        found |= {"family": kinds.family(shapes), "sizes": kinds.sizes(shapes)}
        pairs = {name: shape for name, shape in shapes.items() if ".matrix_A." in name}
        if pairs:
            found["adapters"] = {"rank": sorted({shape[0] for shape in pairs.values()}), "alpha": "not in the file"}
    return found | _facts(header)


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
    """A LoRA that is not for the four projections that have adapters here, or does not say its strength."""
    return {
        "component": "LoRA",
        "names": "other",
        "parameters": kinds.parameters(header.tensors),
        "dtypes": kinds.dtypes(header.tensors),
        "adapted": adapted_modules(header.tensors),
        "unusable": why,
    } | _facts(header)


def _facts(header: Header) -> dict[str, Any]:
    """What we wrote beside the weights, if it was us."""
    try:
        said = json.loads(header.metadata.get("cogtune", "{}"))
    except ValueError:
        return {}
    return {"cogtune": said} if isinstance(said, dict) and said else {}


def _fits(headers: Sequence[Header], model: Mapping[str, Any]) -> dict[str, Any]:
    """Component -> "fits", or the lists of what does not."""
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
    return bool(configs) and all(_is_fit(said) for parts in configs.values() for said in parts.values())


def _is_fit(found: Any) -> bool:
    return found == "fits"


def _lines(found: Mapping[str, Any], full: bool) -> list[str]:
    lines = [f"{found['path']}: {found['layout']}"]
    for part in found["holds"]:
        lines += [f"  {part['component']}, {part['names']} names: {_kind(part)}"]
        lines += [f"    {name}: {value}" for name, value in (part.get("cogtune") or {}).items()]
    for component in dict.fromkeys(name for parts in found["configs"].values() for name in parts):
        verdicts: dict[str, list[str]] = {}
        for name, parts in found["configs"].items():
            if component in parts:
                verdicts.setdefault(_verdict(parts[component], full), []).append(name)
        ordered = sorted(verdicts.items(), key=lambda item: item[0] != "fits")
        for said, names in ordered:
            verdict, colon, why = said.partition(":")
            lines.append(f"  {component} {verdict} {', '.join(names)}{colon}{why}")
    return lines + ([found["advice"]] if "advice" in found else [])


def _kind(part: Mapping[str, Any]) -> str:
    family = part.get("family")
    words = [" or ".join(family) if isinstance(family, list) else family] if family else []
    words += [f"{part['parameters']:,} parameters", "/".join(part["dtypes"])]
    if family == "custom":
        words += [", ".join(f"{name} {value}" for name, value in part["sizes"].items())]
    if "unusable" in part:
        words += [f"adapts {', '.join(part['adapted'])}", f"cannot be used here: {part['unusable']}"]
    if "rank" in part:
        words += [f"{len(part['layers'])} layers", f"rank {part['rank']}", f"alpha {part['alpha']}"]
        words += [f"strength {part['strength']:.6g}"] if part["strength"] is not None else []
    if "adapters" in part:
        words += [
            f"LoRA adapters in it of rank {', '.join(map(str, part['adapters']['rank']))}, alpha in the YAML only"
        ]
    return ", ".join(words)


def _verdict(said: Any, full: bool) -> str:
    if _is_fit(said):
        return "fits"
    if isinstance(said, str):
        return f"does not fit: {said}"
    if full:
        return "does not fit:\n" + fit.Misfit(*said.values()).listed(None)
    counts = ", ".join(f"{len(names)} {title}" for title, names in said.items() if names)
    first = next(name for names in said.values() for name in names)
    return f"does not fit: {counts}, such as {first}"
