"""Read LoRA files of SAT, diffusers, PEFT, kohya and ComfyUI: the same pairs of matrices with different names.

The rank is a shape. The scale is alpha / rank; alpha is in the file's metadata (diffusers), in adapter_config.json
(PEFT), in a tensor per pair (kohya, ComfyUI), or in the YAML only (SAT).
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
"""diffusers' name -> ComfyUI's name (comfy/ldm/cogvideo/model.py)."""
METADATA_KEY = "lora_adapter_metadata"
"""Key of a safetensors header under which diffusers (0.35 and later) keeps rank and alpha, as JSON."""

_BY_COMFY = {comfy_name: ours for ours, comfy_name in COMFY.items()}
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
    """The pair of one projection of one layer. ``scale``: alpha / rank; None if it is not in the file."""

    A: Source
    B: Source
    scale: float | None

    @property
    def rank(self) -> int:
        return self.A.shape[0]


@dataclass(frozen=True)
class Lora:
    """All pairs of a file, by (layer, projection in diffusers' name). ``form``: the naming scheme."""

    form: str
    adapters: dict[tuple[int, str], Adapter]

    @property
    def ranks(self) -> list[int]:
        return sorted({adapter.rank for adapter in self.adapters.values()})

    @property
    def scales(self) -> list[float | None]:
        return sorted({adapter.scale for adapter in self.adapters.values()}, key=lambda scale: scale or 0.0)


@dataclass(frozen=True)
class _Metadata:
    """Metadata of the matrices: common alpha and rank; ``uneven``: some layers have other ranks."""

    alpha: float | None = None
    r: int | None = None
    uneven: bool = False


def our_name(layer: int, projection: str, side: str) -> str:
    """Our name of a matrix; ``side`` is A or B."""
    ours, part = PROJECTIONS[projection]
    return f"transformer.layers.{layer}.attention.{ours}.matrix_{side}.{part}"


def holds_lora(names: Iterable[str]) -> bool:
    """Whether all tensors are adapters."""
    names = list(names)
    return bool(names) and all(_SAT_SIDE.search(name) or _SIDE.search(name) or name.endswith(_ALPHA) for name in names)


def adapted_modules(names: Iterable[str]) -> list[str]:
    """The kinds of layers that a LoRA adapts, by the end of their names: to_q, ff.net.0.proj, norm_final."""
    stems = {_SIDE.split(_SAT_SIDE.split(name)[0])[0].removesuffix(_ALPHA) for name in names}
    return sorted({re.split(r"[._]\d+[._]", stem, maxsplit=1)[-1] for stem in stems})


def read_lora(header: Header) -> Lora:
    """The adapters of a file. Raises: UserError for adapters on other layers than the four attention projections, for
    incomplete pairs, and for unsupported kinds of LoRA."""
    metadata = _metadata(header)
    sides: dict[tuple[int, str], dict[str, Source]] = {}
    alphas: dict[tuple[int, str], float] = {}
    forms: set[str] = set()
    for name, tensor in header.tensors.items():
        form, target, side = _parse(name, header)
        forms.add(form)
        if side == _ALPHA:
            alphas[target] = _number(tensor, name)
        else:
            sides.setdefault(target, {})[side] = tensor
    if len(forms) > 1:
        raise UserError(f"{header.path}: mixes the naming schemes of {' and '.join(sorted(forms))}; expected only one")
    form = forms.pop()
    adapters = {target: _adapter(header, target, pair, alphas, metadata, form) for target, pair in sides.items()}
    return Lora(
        form, dict(sorted(adapters.items(), key=lambda item: (item[0][0], list(PROJECTIONS).index(item[0][1]))))
    )


def _adapter(
    header: Header,
    target: tuple[int, str],
    pair: dict[str, Source],
    alphas: dict[tuple[int, str], float],
    metadata: _Metadata,
    form: str,
) -> Adapter:
    where = f"layer {target[0]}, {target[1]}"
    if pair.keys() != {"A", "B"}:
        raise UserError(f"{header.path}: {where}: incomplete pair, only matrix {', '.join(pair)}")
    A, B = pair["A"], pair["B"]
    if len(A.shape) != 2 or len(B.shape) != 2 or A.shape[0] != B.shape[1]:
        raise UserError(f"{header.path}: {where}: shapes {A.shape} and {B.shape} do not match")
    if target in alphas:
        return Adapter(A, B, alphas[target] / A.shape[0])
    return Adapter(A, B, _scale(header, where, A.shape[0], metadata, form))


def _parse(name: str, header: Header) -> tuple[str, tuple[int, str], str]:
    """(form, (layer, projection), side or ".alpha") of a name."""
    if match := _SAT_SIDE.search(name):
        module = _MODULES["SAT"].fullmatch(name[: match.start()])
        parts = {part: projection for projection, part in PROJECTIONS.items()}
        if module and (projection := parts.get((module[2], int(match[2])))):
            return "SAT", (int(module[1]), projection), match[1]
    match = _SIDE.search(name)
    stem = name[: match.start()] if match else name.removesuffix(_ALPHA)
    side = _ALPHA if match is None else {"down": "A", "up": "B"}.get(match[1], match[1])
    for form, pattern in _MODULES.items():
        if form != "SAT" and (module := pattern.fullmatch(stem)):
            groups = [group for group in module.groups() if group is not None]
            projection = _BY_COMFY.get(groups[1], groups[1].replace("to_out_0", "to_out.0"))
            form = "diffusers" if form == "PEFT" and METADATA_KEY in header.metadata else form
            return form, (int(groups[0]), projection), side
    raise UserError(
        f"{header.path}: {name} adapts an unsupported layer; supported are to_q, to_k, to_v and to_out.0 of the "
        "attention"
    )


def _metadata(header: Header) -> _Metadata:
    """Metadata from adapter_config.json, or from the JSON of a pipeline (`transformer.r`) or of a model (`r`)."""
    try:
        metadata: dict[str, Any] = header.adapter or json.loads(header.metadata.get(METADATA_KEY, "{}"))
        metadata = {key.removeprefix("transformer."): value for key, value in metadata.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{header.path}: invalid metadata {METADATA_KEY}: {error}") from None
    for kind, usual in _UNLIKE.items():
        if metadata.get(kind) not in (None, usual):
            raise UserError(f"{header.path}: the LoRA uses {kind}: {metadata[kind]!r}, which is not supported")
    alpha, r = metadata.get("lora_alpha"), metadata.get("r")
    if header.adapter is not None and not (alpha is not None and r):
        raise UserError(f"{header.path}: its adapter_config.json has no r or lora_alpha; download it again")
    return _Metadata(alpha, r, bool(metadata.get("rank_pattern")))


def _scale(header: Header, where: str, rank: int, metadata: _Metadata, form: str) -> float | None:
    """alpha / rank. Without metadata it is 1, as in diffusers and ComfyUI; files of PEFT itself always have
    adapter_config.json."""
    if form == "SAT":
        return None
    if metadata.alpha is not None and metadata.r:
        if rank != metadata.r and not metadata.uneven:
            raise UserError(
                f"{header.path}: {where} has rank {rank}, but the metadata says r {metadata.r}; does the metadata belong to another file?"
            )
        return metadata.alpha / rank
    if form == "PEFT":
        raise UserError(
            f"{header.path}: a PEFT file without adapter_config.json, which holds r and lora_alpha; "
            "copy it from the original folder"
        )
    return 1.0


def _number(tensor: Source, name: str) -> float:
    """The value of a one-element tensor."""
    letters = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "BF16": "f"}
    if not isinstance(tensor, Stored) or tensor.nbytes not in (2, 4, 8) or tensor.dtype not in letters:
        raise UserError(f"{name}: expected one number; found {tensor.dtype} of shape {list(tensor.shape)}")
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        raw = file.read(tensor.nbytes)
    raw = b"\0\0" + raw if tensor.dtype == "BF16" else raw
    return float(struct.unpack("<" + letters[tensor.dtype], raw)[0])
