"""`cogtune weights convert`: convert weights between all supported formats, and verify the result."""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints import Header, Source, fit, kinds, read_header
from cogtune.checkpoints.folders import TRAINING
from cogtune.checkpoints.lora import our_name, read_lora
from cogtune.checkpoints.names import POSITIONS, UNUSED
from cogtune.checkpoints.shapes import PREFIXES, derived_names
from cogtune.commands.weights_inspect import shipped
from cogtune.config.build import build, params_of
from cogtune.config.schema.common import STRENGTH
from cogtune.errors import UserError
from cogtune.model.lora import is_adapter
from cogtune.model.weights.formats import FORMATS, NetworkWeights, Settings, write
from cogtune.model.weights.lora_formats import Adapters, pairs_of, read_pairs, scaled
from cogtune.model.weights.read import DTYPES, read, read_all
from cogtune.runtime.atomic import sync
from cogtune.runtime.paths import remove_own
from cogtune.work.load import load_config

_log = logging.getLogger(__name__)
_PREFIX = PREFIXES["network"]
_LARGEST_ALPHA = 1e6
_PRECISIONS = {"fp32": DTYPES["F32"], "bf16": DTYPES["BF16"], "fp16": DTYPES["F16"]}


def convert(
    path: Path,
    to: str,
    output: Path | None = None,
    *,
    lora: Path | None = None,
    base: Sequence[str] = (),
    alpha: float | None = None,
    strength: float | None = None,
    precision: str | None = None,
    license: str | None = None,
) -> Path:
    """Convert the weights at ``path`` to ``to``, one of FORMATS; return the path of the result.

    ``lora``: a LoRA to add. ``base``: YAML files of the network (default: the file in ./config that fits).
    ``alpha``: of SAT adapters, whose files do not contain it (default: the YAML's, else 1). ``strength``: multiplies the
    LoRA.
    Raises: UserError for weights that cannot be converted, for an ``alpha`` or ``strength`` without effect, or if the
    result already exists.
    """
    target = _target(path, to, output)
    header = read_header(path)
    _check_numbers(header, to, lora, alpha, strength)
    settings = Settings(_PRECISIONS[precision] if precision else None, facts=_facts(header, license, strength))
    if kinds.roles(header) == ["lora"]:
        if lora is not None:
            raise UserError(f"{path}: is a LoRA; the first path must be the base weights for {lora}")
        if alpha is None and _of_a_run(header):
            raise UserError(
                f"{path}: the adapters of a run do not contain alpha. Give it with --alpha (lora_alpha in "
                f"results/<experiment>/config.yaml), or convert results/<experiment>/export, which contains it"
            )
        alpha = 1.0 if alpha is None else alpha
        weights: NetworkWeights | Adapters = read_pairs(header, alpha)
    elif "network" in kinds.roles(header):
        node = _node(header, base, needed=to == "diffusers" or not _has_tables(header))
        alpha = _yaml_alpha(node) if alpha is None else alpha
        weights = _whole(header, node, None if lora is None else _lora_header(lora), alpha)
    else:
        contents = " and ".join(kinds.WORDS[role] for role in kinds.roles(header)) or "no known weights"
        raise UserError(
            f"{path}: contains {contents}; only transformers and LoRA files can be converted (a VAE needs no conversion)"
        )
    if strength is not None:
        weights = _stronger(weights, strength, to)
    settings = replace(settings, sat_alpha=alpha)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    remove_own(partial)
    try:
        write(to, partial, weights, settings)
        _check(to, partial, weights, settings)
        for written in [*partial.rglob("*"), partial]:
            sync(written)
        os.replace(partial, target)
        sync(target.parent)
    finally:
        remove_own(partial)
    return target


def _check_numbers(header: Header, to: str, lora: Path | None, alpha: float | None, strength: float | None) -> None:
    """Raise UserError for an invalid ``alpha`` or ``strength``, and for one that would change nothing."""
    if alpha is not None and not 0 < alpha <= _LARGEST_ALPHA:
        raise UserError(f"--alpha {alpha:g}: expected a number above 0, up to {_LARGEST_ALPHA:g}")
    if strength is not None and (strength not in STRENGTH or not strength):
        raise UserError(
            f"--strength {strength:g}: expected a number from {STRENGTH}, and not 0, which leaves the LoRA out"
        )
    holder = header if lora is None else read_header(lora)
    form = read_lora(holder).form if kinds.roles(holder) == ["lora"] else "SAT"
    adapted = lora is not None or any(map(is_adapter, _network_names(header))) or kinds.roles(header) == ["lora"]
    if strength is not None and not adapted:
        raise UserError(f"--strength: there is no LoRA in {header.path}, and no --lora to add")
    if alpha is None or (adapted and (form == "SAT" or to in ("sat", "sat_lora"))):
        return
    if not adapted:
        raise UserError(f"--alpha: there is no LoRA in {header.path}, and no --lora to add")
    raise UserError(
        f"--alpha {alpha:g} would have no effect: {holder.path} contains its own alpha, and {to} stores it. To scale the "
        f"LoRA use --strength"
    )


def _network_names(header: Header) -> Iterable[str]:
    return header.tensors if "network" in kinds.roles(header) else ()


def _stronger(weights: NetworkWeights | Adapters, strength: float, to: str) -> NetworkWeights | Adapters:
    """The weights with the update of their LoRA multiplied by ``strength``, where the format ``to`` stores its scale."""
    if isinstance(weights, NetworkWeights) and to == "sat":
        _log.info("strength %g: matrices B are multiplied by it; alpha stays that of the YAML", strength)
        state = {name: scaled(t, strength) if "matrix_B" in name else t for name, t in weights.state.items()}
        return replace(weights, state=state)
    places = {
        "sat_lora": "matrices B are multiplied by it; alpha stays that of the YAML",
        "folded_lora": "matrices B are multiplied by it",
    } | dict.fromkeys(("diffusers", "merged"), "the LoRA is multiplied by it before it is added to the weights")
    _log.info("strength %g: %s", strength, places.get(to, "alpha is multiplied by it; the matrices stay the same"))
    if isinstance(weights, NetworkWeights):
        return replace(weights, alpha=weights.alpha * strength)
    return {place: replace(pair, alpha=pair.alpha * strength) for place, pair in weights.items()}


def _lora_header(path: Path) -> Header:
    header = read_header(path)
    inside = kinds.roles(header)
    if inside != ["lora"]:
        contents = " and ".join(f"a full {kinds.WORDS[role]}" for role in inside) or "no known component"
        raise UserError(
            f"{path}: contains {contents}, not a LoRA; --lora takes adapters, the first path takes full weights"
        )
    return header


def _target(path: Path, to: str, output: Path | None) -> Path:
    """The output path: ``output``, or the format's standard file name in it."""
    name = Path(FORMATS[to].path)
    target = output or Path(f"{path.name.removesuffix(path.suffix)}-{to}")
    if name.suffix and target.suffix != name.suffix:
        target = target / name.name
    if target.exists():
        raise UserError(f"{target}: already exists; will not overwrite. Choose another path with -o, or remove it")
    return target


def _facts(header: Header, license: str | None, strength: float | None) -> dict[str, Any]:
    try:
        known = json.loads(header.metadata.get("cogtune", "{}"))
    except ValueError:
        known = {}
    facts = {**known, "converted_from": header.path.name, "license": license or known.get("license", "not stated")}
    if strength is None:
        return facts
    earlier = known.get("strength")
    return facts | {"strength": strength * (earlier if isinstance(earlier, int | float) else 1.0)}


def _node(header: Header, base: Sequence[str], needed: bool) -> dict[str, Any] | None:
    """The network's {target, params}: of ``base``, or of the one file in ./config that the weights fit."""
    if base:
        model = load_config(base, check_files=False, partial=True).values.get("model") or {}
        if "network_config" not in model:
            raise UserError(f"{' '.join(base)}: no model section; expected the YAML of the network")
        node = model["network_config"]
        if misfit := _misfit(header, node):
            expected = fit.shapes_of(NetworkWeights({}, node).plain_node()) or {}
            raise UserError(fit.refusal(header.path, misfit, expected, _under_adapters(header)))
        return node
    if not needed:
        return None
    plain = {file: model["network_config"] for file, model in shipped().items() if not _adapts(model["network_config"])}
    fitting = [file for file, node in plain.items() if not _misfit(header, node)]
    if not fitting or any(_weights_of(plain[file]) != _weights_of(plain[fitting[0]]) for file in fitting):
        fits = f"fits several files: {', '.join(fitting)}" if fitting else "fits no file in ./config"
        raise UserError(f"{header.path}: {fits}; give the YAML of the network with --base FILE")
    return plain[fitting[0]]


def _adapts(node: Mapping[str, Any]) -> bool:
    return bool(node["params"]["modules"].get("lora_config"))


def _weights_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """The params that affect the network's function; files that differ only in others are equivalent."""
    return {name: value for name, value in node["params"].items() if name != "transformer_args"}


def _misfit(header: Header, node: dict[str, Any]) -> fit.Misfit:
    plain = NetworkWeights({}, node).plain_node()
    misfit = fit.compare(fit.shapes_of(plain) or {}, _under_adapters(header), derived_names(plain))
    return replace(misfit, contradicted=fit.contradictions(params_of(plain), header.config))


def _of_a_run(header: Header) -> bool:
    """Whether they are adapters as `train` writes them: SAT's names, without alpha."""
    own = "run" in _facts(header, None, None) or header.layout.startswith(TRAINING)
    return own and read_lora(header).form == "SAT"


def _has_tables(header: Header) -> bool:
    """Whether the computed tables are in the file: every SAT file has one of them, diffusers' and those in
    ``train/<key>/final`` have learned weights only."""
    return not {POSITIONS, UNUSED}.isdisjoint(kinds.component(header, _PREFIX))


def _under_adapters(header: Header) -> dict[str, Source]:
    """The network's tensors without adapters, by their names in a network without adapters."""
    tensors = kinds.component(header, _PREFIX)
    return {name.replace(".original.", "."): tensor for name, tensor in tensors.items() if not is_adapter(name)}


def _yaml_alpha(node: Mapping[str, Any] | None) -> float:
    lora = (node or {"params": {"modules": {}}})["params"]["modules"].get("lora_config")
    return float(lora["params"].get("lora_alpha", 1)) if lora else 1.0


def _whole(header: Header, node: dict[str, Any] | None, lora: Header | None, alpha: float) -> NetworkWeights:
    state = read_all(kinds.component(header, _PREFIX))
    if node is not None and not _has_tables(header):
        with torch.device("meta"):
            network = build(NetworkWeights({}, node).plain_node())
        state |= {name: table for name, table in network.derived_state().items() if name not in state}
    if lora is not None:
        state = _with_lora(state, read_pairs(lora, alpha), lora.path, alpha)
    return NetworkWeights(state, node or {"params": {"modules": {}}}, alpha)


def _with_lora(state: dict[str, Tensor], pairs: Adapters, path: Path, alpha: float) -> dict[str, Tensor]:
    """``state`` with adapters on its attention layers. Raises UserError if they do not fit."""
    if any(map(is_adapter, state)):
        raise UserError("the weights already have adapters; merge them first: cogtune weights convert … --to merged")
    if len({pair.r for pair in pairs.values()}) > 1:
        raise UserError(f"{path}: adapters of several ranks; a network supports one rank")
    out = dict(state)
    for place, pair in pairs.items():
        layer = our_name(*place, "A").partition(".matrix_A")[0]
        weight = state.get(f"{layer}.weight")
        if weight is None or weight.shape[1] != pair.A.shape[1] or weight.shape[0] % pair.B.shape[0]:
            raise UserError(
                f"{path}: {place[1]} of layer {place[0]} does not fit the weights; is the LoRA for another model family?"
            )
        for kind in ("weight", "bias"):
            if f"{layer}.{kind}" in out:
                out[f"{layer}.original.{kind}"] = out.pop(f"{layer}.{kind}")
        out[our_name(*place, "A")] = pair.A
        out[our_name(*place, "B")] = pair.B if pair.alpha == alpha else scaled(pair.B, pair.alpha / alpha)
    return out


def _check(to: str, path: Path, weights: NetworkWeights | Adapters, settings: Settings) -> None:
    """Read the result back and compare every tensor. Raises UserError."""
    header = read_header(path)
    if FORMATS[to].whole is not None:
        assert isinstance(weights, NetworkWeights)
        expected = settings.cast(weights.state if to == "sat" else weights.merged())
        written = kinds.component(header, _PREFIX)
        if to != "diffusers" and written.keys() != expected.keys():
            raise UserError(f"{path}: has unexpected tensor names after writing; please report this bug")
        wrong = [name for name in written if not torch.equal(read(written[name]).flatten(), expected[name].flatten())]
    else:
        wanted = settings.round(
            pairs_of(weights.state, weights.alpha) if isinstance(weights, NetworkWeights) else weights
        )
        back = read_pairs(header, settings.sat_alpha)
        wrong = [str(place) for place in wanted if not _same(wanted[place], back[place])]
    if wrong:
        raise UserError(f"{path}: {len(wrong)} tensors do not round-trip, e.g. {wrong[0]}; please report this bug")


def _same(expected: Any, written: Any) -> bool:
    update = [pair.B.float() * (pair.alpha / pair.r) for pair in (expected, written)]
    return torch.equal(expected.A, written.A) and torch.allclose(*update, rtol=1e-6, atol=0)
