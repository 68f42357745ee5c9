"""The folder of a text encoder: T5 and its tokenizer, as transformers reads them. Nothing is loaded."""

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
    """``weights`` and ``tokenizer``: one folder, or two of a diffusers pipeline; ``config``: config.json of the weights."""

    weights: Path
    tokenizer: Path
    config: dict[str, Any]


def read_text_encoder(folder: Path) -> TextEncoderFolder:
    """The places in ``folder``, or in its ``text_encoder/`` and ``tokenizer/``.

    Raises UserError, naming what is wrong, unless there is a T5's config.json, all files of its weights, and a vocabulary.
    """
    weights = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
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
        # transformers would make a tokenizer without a vocabulary, to which every word is unknown.
        raise UserError(f"{folder}: no tokenizer in it; expected one of {', '.join(_VOCABULARIES)} in {tokenizer}")
    for file in (*words, *_weight_files(weights)):
        if git_lfs.is_pointer_file(file):
            raise UserError(f"{file}: {git_lfs.advice(file)}")
    return TextEncoderFolder(weights, tokenizer, config)


def _weight_files(folder: Path) -> list[Path]:
    """The one that transformers would take, or its shards. Raises UserError where one is not there."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{_INDEX}"
        if index.is_file():
            return _shards(index)
    raise UserError(
        f"{folder}: no weights in it; expected one of {', '.join(_WEIGHTS)}, or their shards with NAME{_INDEX}"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: expected `weight_map` with the file of each tensor; fetch it again") from None
    for file in files:
        if not file.is_file():
            raise UserError(f"{index}: lists {file.name}, which is not beside it; fetch the folder again")
    return files
