"""Check the folder of a text encoder: T5 and its tokenizer in the format of transformers. Nothing is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime import git_lfs

_VOCABULARIES = ("tokenizer.json", "spiece.model")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"


@dataclass(frozen=True)
class TextEncoderFolder:
    """``weights`` and ``tokenizer``: the same folder, or two of a diffusers pipeline; ``config``: config.json of the weights."""

    weights: Path
    tokenizer: Path
    config: dict[str, Any]


def read_text_encoder(folder: Path) -> TextEncoderFolder:
    """Weights and tokenizer in ``folder``, or in its ``text_encoder/`` and ``tokenizer/``. If ``folder`` is the
    ``text_encoder/`` of a diffusers pipeline, the tokenizer is beside it.

    Raises UserError unless there are config.json of a T5, all its weight files, and a vocabulary.
    """
    weights = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    tokenizer = tokenizer_beside(folder) or (folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder)
    path = weights / "config.json"
    try:
        config = json.loads(path.read_text())
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError):
        config, kind = {}, None
    if kind != "t5":
        why = f"{path} has model_type {kind!r}" if path.exists() else f"no {path.name} in {weights}"
        raise UserError(
            f"{folder}: not a T5 folder: {why}; expected tokenizer and weights of T5 in "
            f"transformers' format, as in CogVideoX's t5-v1_1-xxl folder"
        )
    words = [tokenizer / name for name in _VOCABULARIES if (tokenizer / name).exists()]
    if not words:
        # transformers would create a tokenizer without a vocabulary, which maps every word to unknown.
        raise UserError(f"{folder}: no tokenizer found; expected one of {', '.join(_VOCABULARIES)} in {tokenizer}")
    for file in (*words, *_weight_files(weights)):
        if git_lfs.is_pointer_file(file):
            raise UserError(f"{file}: {git_lfs.advice(file)}")
    return TextEncoderFolder(weights, tokenizer, config)


def tokenizer_beside(folder: Path) -> Path | None:
    """The ``tokenizer/`` beside a ``text_encoder/`` without a vocabulary of its own; None for other folders."""
    beside = folder.parent / "tokenizer"
    own = any((folder / name).exists() for name in _VOCABULARIES) or (folder / "tokenizer").is_dir()
    return beside if folder.name == "text_encoder" and not own and beside.is_dir() else None


def _weight_files(folder: Path) -> list[Path]:
    """The weight file that transformers would load, or its shards. Raises UserError if one is missing."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{_INDEX}"
        if index.is_file():
            return _shards(index)
    raise UserError(f"{folder}: no weights found; expected one of {', '.join(_WEIGHTS)}, or shards with NAME{_INDEX}")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{index}: expected `weight_map`, a mapping of tensor names to files; download it again"
        ) from None
    for file in files:
        if not file.is_file():
            raise UserError(f"{index}: lists {file.name}, which is missing; download the folder again")
    return files
