"""`cogtune weights convert`: any weights that we read into any format that we write, read back before it counts."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints import Header, Source, fit, kinds, read_header
from cogtune.checkpoints.lora import our_name
from cogtune.checkpoints.shapes import PREFIXES, derived_names
from cogtune.commands.weights_inspect import shipped
from cogtune.config.build import build, params_of
from cogtune.errors import UserError
from cogtune.model.lora import is_adapter
from cogtune.model.weights.formats import FORMATS, Settings, Whole, write
from cogtune.model.weights.lora_formats import Adapters, pairs_of, read_pairs, scaled
from cogtune.model.weights.read import DTYPES, read, read_all
from cogtune.runtime.atomic import sync
from cogtune.runtime.paths import remove_own
from cogtune.work.load import load_config

_PREFIX = PREFIXES["network"]
_PRECISIONS = {"fp32": DTYPES["F32"], "bf16": DTYPES["BF16"], "fp16": DTYPES["F16"]}


def convert(
    path: Path,
    to: str,
    output: Path | None = None,
    *,
    lora: Path | None = None,
    base: Sequence[str] = (),
    alpha: float | None = None,
    precision: str | None = None,
    license: str | None = None,
) -> Path:
    """Write the weights at ``path`` as ``to``, one of FORMATS; returns where they are.

    ``lora``: a LoRA to put over them. ``base``: YAML files of their network; without, the file in ./config that fits
    is taken. ``alpha``: of adapters in SAT's names, whose files do not say it (default: the YAML's, else 1).
    Raises: UserError for what cannot be converted, or if the result is there already.
    """
    target = _target(path, to, output)
    header = read_header(path)
    how = Settings(_PRECISIONS[precision] if precision else None, facts=_facts(header, license))
    if kinds.roles(header) == ["lora"]:
        if lora is not None:
            raise UserError(f"{path}: is a LoRA itself; the first path is that of the weights under {lora}")
        alpha = 1.0 if alpha is None else alpha
        weights: Whole | Adapters = read_pairs(header, alpha)
    elif "network" in kinds.roles(header):
        node = _node(header, base, needed=to == "diffusers" or kinds.spelling(header) == "diffusers")
        alpha = _yaml_alpha(node) if alpha is None else alpha
        weights = _whole(header, node, None if lora is None else _lora_header(lora), alpha)
    else:
        found = " and ".join(kinds.WORDS[role] for role in kinds.roles(header)) or "no known weights"
        raise UserError(f"{path}: holds {found}; transformers and LoRA files are converted, a VAE is read as it is")
    how = replace(how, sat_alpha=alpha)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    remove_own(partial)
    try:
        write(to, partial, weights, how)
        _check(to, partial, weights, how)
        for written in [*partial.rglob("*"), partial]:
            sync(written)
        os.replace(partial, target)
        sync(target.parent)
    finally:
        remove_own(partial)
    return target


def _lora_header(path: Path) -> Header:
    header = read_header(path)
    inside = kinds.roles(header)
    if inside != ["lora"]:
        found = " and ".join(f"a whole {kinds.WORDS[role]}" for role in inside) or "tensors of no known component"
        raise UserError(f"{path}: holds {found}, no LoRA; --lora takes adapters, whole weights are the first path")
    return header


def _target(path: Path, to: str, output: Path | None) -> Path:
    """Where to write: ``output``, or below it the name that the format's readers look for."""
    name = Path(FORMATS[to].path)
    target = output or Path(f"{path.name.removesuffix(path.suffix)}-{to}")
    if name.suffix and target.suffix != name.suffix:
        target = target / name.name
    if target.exists():
        raise UserError(f"{target}: is there already, and is not overwritten; name another place with -o, or remove it")
    return target


def _facts(header: Header, license: str | None) -> dict[str, Any]:
    try:
        known = json.loads(header.metadata.get("cogtune", "{}"))
    except ValueError:
        known = {}
    return {**known, "converted_from": header.path.name, "license": license or known.get("license", "not stated")}


def _node(header: Header, base: Sequence[str], needed: bool) -> dict[str, Any] | None:
    """The network's {target, params}: of ``base``, or of the one file in ./config that the weights fit."""
    if base:
        model = load_config(base, check_files=False, partial=True).values.get("model") or {}
        if "network_config" not in model:
            raise UserError(f"{' '.join(base)}: no model section; expected the YAML of the weights' network")
        node = model["network_config"]
        if misfit := _misfit(header, node):
            expected = fit.shapes_of(Whole({}, node).plain_node()) or {}
            raise UserError(fit.refusal(header.path, misfit, expected, _under_adapters(header)))
        return node
    if not needed:
        return None
    plain = {file: model["network_config"] for file, model in shipped().items() if not _adapts(model["network_config"])}
    fitting = [file for file, node in plain.items() if not _misfit(header, node)]
    if not fitting or any(_weights_of(plain[file]) != _weights_of(plain[fitting[0]]) for file in fitting):
        found = f"fits {', '.join(fitting)}" if fitting else "fits no file in ./config"
        raise UserError(f"{header.path}: {found}; name the YAML of its network with --base FILE")
    return plain[fitting[0]]


def _adapts(node: Mapping[str, Any]) -> bool:
    return bool(node["params"]["modules"].get("lora_config"))


def _weights_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the network's function, so that files which differ in nothing else are one choice."""
    return {name: value for name, value in node["params"].items() if name != "transformer_args"}


def _misfit(header: Header, node: dict[str, Any]) -> fit.Misfit:
    plain = Whole({}, node).plain_node()
    optional = derived_names(plain) if kinds.spelling(header) == "diffusers" else set()
    found = fit.compare(fit.shapes_of(plain) or {}, _under_adapters(header), optional)
    return replace(found, contradicted=fit.contradictions(params_of(plain), header.config))


def _under_adapters(header: Header) -> dict[str, Source]:
    """The network's own tensors, by their names without adapters."""
    given = kinds.component(header, _PREFIX)
    return {name.replace(".original.", "."): tensor for name, tensor in given.items() if not is_adapter(name)}


def _yaml_alpha(node: Mapping[str, Any] | None) -> float:
    lora = (node or {"params": {"modules": {}}})["params"]["modules"].get("lora_config")
    return float(lora["params"].get("lora_alpha", 1)) if lora else 1.0


def _whole(header: Header, node: dict[str, Any] | None, lora: Header | None, alpha: float) -> Whole:
    state = read_all(kinds.component(header, _PREFIX))
    if node is not None and kinds.spelling(header) == "diffusers":
        with torch.device("meta"):
            network = build(Whole({}, node).plain_node())
        state |= {name: table for name, table in network.derived_state().items() if name not in state}
    if lora is not None:
        state = _with_lora(state, read_pairs(lora, alpha), lora.path, alpha)
    return Whole(state, node or {"params": {"modules": {}}}, alpha)


def _with_lora(state: dict[str, Tensor], pairs: Adapters, path: Path, alpha: float) -> dict[str, Tensor]:
    """``state`` with adapters over its attention layers. Raises UserError where they do not fit."""
    if any(map(is_adapter, state)):
        raise UserError("the weights have adapters already; merge them first: cogtune weights convert … --to merged")
    if len({pair.r for pair in pairs.values()}) > 1:
        raise UserError(f"{path}: adapters of several ranks; a network has adapters of one")
    out = dict(state)
    for place, pair in pairs.items():
        layer = our_name(*place, "A").partition(".matrix_A")[0]
        weight = state.get(f"{layer}.weight")
        if weight is None or weight.shape[1] != pair.A.shape[1] or weight.shape[0] % pair.B.shape[0]:
            raise UserError(
                f"{path}: {place[1]} of layer {place[0]} does not fit the weights; is it of another family?"
            )
        for kind in ("weight", "bias"):
            if f"{layer}.{kind}" in out:
                out[f"{layer}.original.{kind}"] = out.pop(f"{layer}.{kind}")
        out[our_name(*place, "A")] = pair.A
        out[our_name(*place, "B")] = pair.B if pair.alpha == alpha else scaled(pair.B, pair.alpha / alpha)
    return out


def _check(to: str, path: Path, weights: Whole | Adapters, how: Settings) -> None:
    """Read the result back; every tensor must be what was to be written. Raises UserError."""
    header = read_header(path)
    if FORMATS[to].whole is not None:
        assert isinstance(weights, Whole)
        expected = how.cast(weights.state if to == "sat" else weights.merged())
        found = kinds.component(header, _PREFIX)
        if to != "diffusers" and found.keys() != expected.keys():
            raise UserError(f"{path}: holds other names than were to be written; this is a defect of ours")
        wrong = [name for name in found if not torch.equal(read(found[name]).flatten(), expected[name].flatten())]
    else:
        asked = how.round(pairs_of(weights.state, weights.alpha) if isinstance(weights, Whole) else weights)
        back = read_pairs(header, how.sat_alpha)
        wrong = [str(place) for place in asked if not _same(asked[place], back[place])]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} tensors read back otherwise, such as {wrong[0]}; this is a defect of ours"
        )


def _same(asked: Any, found: Any) -> bool:
    update = [pair.B.float() * (pair.alpha / pair.r) for pair in (asked, found)]
    return torch.equal(asked.A, found.A) and torch.allclose(*update, rtol=1e-6, atol=0)
