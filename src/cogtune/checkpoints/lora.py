"""LoRA files of SAT, diffusers, PEFT, kohya and ComfyUI: the same pairs of matrices under other names.

Rank is a shape. Strength is alpha / rank: diffusers has it in the file's metadata, PEFT in adapter_config.json, kohya
and ComfyUI in a number beside each pair, SAT in the YAML only.
"""

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cogtune.checkpoints.header import Header, Source, Stored
from cogtune.errors import UserError

PROJECTIONS = {
    "to_q": ("query_key_value", 0), "to_k": ("query_key_value", 1), "to_v": ("query_key_value", 2),
    "to_out.0": ("dense", 0),
}  # fmt: skip
"""diffusers' name of an adapted projection -> our layer, and the part of its output."""
COMFY = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "attn_out"}
"""… and ComfyUI's own name of it (comfy/ldm/cogvideo/model.py)."""
METADATA_KEY = "lora_adapter_metadata"
"""Key of a safetensors header under which diffusers (0.35 and later) keeps rank and alpha, as JSON."""

_BY_COMFY = {theirs: ours for ours, theirs in COMFY.items()}
_LAYER, _PROJECTION = r"transformer_blocks[._](\d+)[._]attn1[._]", r"(to_[qkv]|to_out[._]0)"
_MODULES = {
    "SAT": re.compile(r"(?:model\.diffusion_model\.)?transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)"),
    "PEFT": re.compile(rf"base_model\.model\.(?:transformer\.)?{_LAYER}{_PROJECTION}"),
    "kohya": re.compile(rf"lora_unet__?{_LAYER}{_PROJECTION}"),
    "ComfyUI": re.compile(
        rf"(?:diffusion_model\.|lora_unet_)(?:blocks[._](\d+)[._](q|k|v|attn_out)|{_LAYER}{_PROJECTION})"
    ),
    "diffusers": re.compile(rf"(?:transformer\.)?{_LAYER}{_PROJECTION}"),
}
_SAT_SIDE = re.compile(r"\.matrix_([AB])\.(\d)$")
_SIDE = re.compile(r"\.lora_(A|B|down|up)(?:\.default)?\.weight$")
_ALPHA = ".alpha"
_UNLIKE = {"alpha_pattern": {}, "use_rslora": False, "use_dora": False}


@dataclass(frozen=True)
class Adapter:
    """The pair on one projection of one layer. ``scale``: alpha / rank; None where the file does not say."""

    A: Source
    B: Source
    scale: float | None

    @property
    def rank(self) -> int:
        return self.A.shape[0]


@dataclass(frozen=True)
class Lora:
    """All pairs of a file, by (layer, projection in diffusers' name). ``form``: whose file it is."""

    form: str
    adapters: dict[tuple[int, str], Adapter]

    @property
    def ranks(self) -> list[int]:
        return sorted({adapter.rank for adapter in self.adapters.values()})

    @property
    def scales(self) -> list[float | None]:
        return sorted({adapter.scale for adapter in self.adapters.values()}, key=lambda scale: scale or 0.0)


@dataclass(frozen=True)
class _Said:
    """What stands beside the matrices: alpha and rank of all of them; ``uneven`` where single layers have other ranks."""

    alpha: float | None = None
    r: int | None = None
    uneven: bool = False


def our_name(layer: int, projection: str, side: str) -> str:
    """Our name of one matrix; ``side`` is A or B."""
    ours, part = PROJECTIONS[projection]
    return f"transformer.layers.{layer}.attention.{ours}.matrix_{side}.{part}"


def holds_lora(names: Iterable[str]) -> bool:
    """Whether these are adapters and nothing else."""
    names = list(names)
    return bool(names) and all(_SAT_SIDE.search(name) or _SIDE.search(name) or name.endswith(_ALPHA) for name in names)


def adapted_modules(names: Iterable[str]) -> list[str]:
    """The kinds of layers that a LoRA adapts, by the last parts of their names: to_q, ff.net.0.proj, norm_final."""
    stems = {_SIDE.split(_SAT_SIDE.split(name)[0])[0].removesuffix(_ALPHA) for name in names}
    return sorted({re.split(r"[._]\d+[._]", stem, maxsplit=1)[-1] for stem in stems})


def read_lora(header: Header) -> Lora:
    """The adapters of a file. Raises: UserError for adapters on other layers than the four attention projections, for
    half a pair, and for kinds of LoRA that have no counterpart."""
    said = _said(header)
    sides: dict[tuple[int, str], dict[str, Source]] = {}
    alphas: dict[tuple[int, str], float] = {}
    forms: set[str] = set()
    for name, tensor in header.tensors.items():
        form, place, side = _parse(name, header)
        forms.add(form)
        if side == _ALPHA:
            alphas[place] = _number(tensor, name)
        else:
            sides.setdefault(place, {})[side] = tensor
    if len(forms) > 1:
        raise UserError(f"{header.path}: mixes the names of {' and '.join(sorted(forms))}; expected one of them")
    form = forms.pop()
    adapters = {place: _adapter(header, place, pair, alphas, said, form) for place, pair in sides.items()}
    return Lora(
        form, dict(sorted(adapters.items(), key=lambda item: (item[0][0], list(PROJECTIONS).index(item[0][1]))))
    )


def _adapter(
    header: Header,
    place: tuple[int, str],
    pair: dict[str, Source],
    alphas: dict[tuple[int, str], float],
    said: _Said,
    form: str,
) -> Adapter:
    where = f"layer {place[0]}, {place[1]}"
    if pair.keys() != {"A", "B"}:
        raise UserError(f"{header.path}: {where} has only one matrix of its pair, {', '.join(pair)}")
    A, B = pair["A"], pair["B"]
    if len(A.shape) != 2 or len(B.shape) != 2 or A.shape[0] != B.shape[1]:
        raise UserError(f"{header.path}: {where}: shapes {A.shape} and {B.shape} make no pair of one rank")
    if place in alphas:
        return Adapter(A, B, alphas[place] / A.shape[0])
    return Adapter(A, B, _scale(header, where, A.shape[0], said, form))


def _parse(name: str, header: Header) -> tuple[str, tuple[int, str], str]:
    """(form, (layer, projection), side or ".alpha") of a name."""
    if found := _SAT_SIDE.search(name):
        module = _MODULES["SAT"].fullmatch(name[: found.start()])
        parts = {part: projection for projection, part in PROJECTIONS.items()}
        if module and (projection := parts.get((module[2], int(found[2])))):
            return "SAT", (int(module[1]), projection), found[1]
    found = _SIDE.search(name)
    stem = name[: found.start()] if found else name.removesuffix(_ALPHA)
    side = _ALPHA if found is None else {"down": "A", "up": "B"}.get(found[1], found[1])
    for form, pattern in _MODULES.items():
        if form != "SAT" and (module := pattern.fullmatch(stem)):
            groups = [group for group in module.groups() if group is not None]
            projection = _BY_COMFY.get(groups[1], groups[1].replace("to_out_0", "to_out.0"))
            form = "diffusers" if form == "PEFT" and METADATA_KEY in header.metadata else form
            return form, (int(groups[0]), projection), side
    raise UserError(
        f"{header.path}: {name} adapts a layer that has no adapter here; only the attention's to_q, to_k, to_v, "
        "to_out.0 have"
    )


def _said(header: Header) -> _Said:
    """From adapter_config.json, or from the JSON of a pipeline (`transformer.r`) or of a model by itself (`r`)."""
    try:
        said: dict[str, Any] = header.adapter or json.loads(header.metadata.get(METADATA_KEY, "{}"))
        said = {key.removeprefix("transformer."): value for key, value in said.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{header.path}: metadata {METADATA_KEY} does not read: {error}") from None
    for kind, usual in _UNLIKE.items():
        if said.get(kind) not in (None, usual):
            raise UserError(
                f"{header.path}: the LoRA was made with {kind}: {said[kind]!r}, which has no counterpart here"
            )
    alpha, r = said.get("lora_alpha"), said.get("r")
    if header.adapter is not None and not (alpha is not None and r):
        raise UserError(f"{header.path}: adapter_config.json beside it does not say r and lora_alpha; fetch it again")
    return _Said(alpha, r, bool(said.get("rank_pattern")))


def _scale(header: Header, where: str, rank: int, said: _Said, form: str) -> float | None:
    """alpha / rank. Without a word of it the factor is 1, as diffusers and ComfyUI take it; PEFT's own files always
    have adapter_config.json."""
    if form == "SAT":
        return None
    if said.alpha is not None and said.r:
        if rank != said.r and not said.uneven:
            raise UserError(
                f"{header.path}: {where} has rank {rank}, and r {said.r} is said of the file; is it another's?"
            )
        return said.alpha / rank
    if form == "PEFT":
        raise UserError(
            f"{header.path}: PEFT's names, and no adapter_config.json beside it, which says the strength (r, lora_alpha); "
            "put it there, as the folder had it"
        )
    return 1.0


def _number(tensor: Source, name: str) -> float:
    """The one number in a tensor."""
    letters = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "BF16": "f"}
    if not isinstance(tensor, Stored) or tensor.nbytes not in (2, 4, 8) or tensor.dtype not in letters:
        raise UserError(f"{name}: expected one number; found {tensor.dtype} of shape {list(tensor.shape)}")
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        raw = file.read(tensor.nbytes)
    raw = b"\0\0" + raw if tensor.dtype == "BF16" else raw
    return float(struct.unpack("<" + letters[tensor.dtype], raw)[0])
