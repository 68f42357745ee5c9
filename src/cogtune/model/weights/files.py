"""Reading weight files without knowing beforehand what they are.

Nothing from outside is unpickled freely: torch files go through `weights_only=True`, memory-mapped.
"""

import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cogtune.errors import UserError
from cogtune.model.weights.parallel import merge_ranks

# The numpy random state in DeepSpeed checkpoints: an array from bytes, which runs nothing of the file's own. The two
# names of _reconstruct are those of numpy 2 and 1.
_NUMPY_GLOBALS: list[Any] = [
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
]


@dataclass(frozen=True)
class WeightFile:
    """Tensors by the names in the file. `metadata` is what a safetensors header says beside them."""

    source: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: str | Path, component: str = "transformer") -> WeightFile:
    """Reads a SAT folder (`latest`), an iteration folder, a diffusers pipeline (its `component`) or component folder,
    a folder with one safetensors file, a safetensors file, or a torch file.

    Raises: UserError when the path is none of these, is damaged, or asks for more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, component)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; expected weights")
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:9] == b"{":
        return _read_safetensors([path], path)
    return WeightFile(path, _tensors_of(_load_torch(path), path))


def _read_folder(folder: Path, component: str) -> WeightFile:
    if (folder / "latest").is_file():
        return _read_ranks(folder / (folder / "latest").read_text().strip())
    if any(folder.glob("mp_rank_*_model_states.pt")):
        return _read_ranks(folder)
    if (folder / "model_index.json").is_file():
        if not (folder / component).is_dir():
            raise UserError(f"{folder}: a diffusers pipeline without a {component} folder")
        folder = folder / component
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no weights found; expected a SAT folder (with a file `latest`), a diffusers folder, or "
            "a folder with a .safetensors file"
        )
    if len(files) > 1 and not any(folder.glob("*.safetensors.index.json")):
        names = ", ".join(file.name for file in files)
        raise UserError(f"{folder}: holds several weight files ({names}); name one of them")
    return _read_safetensors(files, folder)


def _read_ranks(folder: Path) -> WeightFile:
    files = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if not files:
        raise UserError(f"{folder}: no mp_rank_00_model_states.pt; the file `latest` beside it names this iteration")
    ranks = [_tensors_of(_load_torch(file), file) for file in files]
    return WeightFile(folder, merge_ranks(ranks) if len(ranks) > 1 else ranks[0])


def _read_safetensors(files: list[Path], source: Path) -> WeightFile:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as shard:
                metadata |= shard.metadata() or {}
                tensors |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise UserError(f"{file}: not a complete safetensors file ({error}); fetch it again") from error
    return WeightFile(source, tensors, metadata)


def _load_torch(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMPY_GLOBALS):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f"asks for {wanted[1]}, which is code" if wanted else "is not a torch file of tensors"
        raise UserError(f"{file}: refused: it {asks}; expected nothing but tensors") from error
    except (RuntimeError, EOFError, OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a complete weight file ({str(error).splitlines()[0]}); fetch it again") from error


def _is_zip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def _tensors_of(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict inside a torch file: below `module` (SAT, DeepSpeed), below `state_dict` (VAE), or bare."""
    for key in ("module", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{file}: holds no tensors; expected a state dict, alone or below `module` or `state_dict`")
    return tensors
