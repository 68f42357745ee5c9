"""Read torch files (.pt, .bin, .ckpt; zip or legacy format) without torch and without running code from the file.

A pickle is a program. The interpreter here only knows the stand-ins below, which record how a tensor is stored and
execute nothing. Every other global in a pickle is refused by name before it is used.
"""

import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cogtune.checkpoints.header import SIZES, Header, Stored
from cogtune.errors import UserError
from cogtune.runtime import git_lfs

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_WRAPPERS = ("module", "state_dict")
"""Keys that hold a state dict: of SAT and DeepSpeed, of the VAE."""


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    begin: int  # element of the stored record at which it begins


@dataclass(frozen=True)
class _Tensor:
    """A tensor as recorded by a stand-in; the offset of its storage in the file is looked up later."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name:
    """A name that is allowed in a file: a dtype, a storage type."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "value", value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("the file tries to modify the reader")


class _Call(_Name):
    """A function that a file may call; a call only records its arguments."""

    __slots__ = ("_does",)

    def __init__(self, value: str, does: Callable[..., Any]) -> None:
        super().__init__(value)
        object.__setattr__(self, "_does", does)

    def __call__(self, *arguments: Any) -> Any:
        return self._does(*arguments)


class _Opaque:
    """An object that is not part of any weight, such as a numpy random state; it accepts any state."""

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    valid_sizes = all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not valid_sizes or len(shape) != len(strides):
        raise pickle.UnpicklingError("inconsistent tensor metadata")
    return _Tensor(storage, storage.dtype, offset, tuple(shape), tuple(strides))


def _tensor_of_type(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any) -> _Tensor:
    plain = _tensor(storage, offset, shape, strides)
    return _Tensor(plain.storage, dtype.value, plain.offset, plain.shape, plain.strides)


def _known() -> dict[str, Any]:
    """Every global that a file may use."""
    opaque = _Call("opaque", lambda *_: _Opaque())
    known: dict[str, Any] = {f"torch.{name}": _Name(dtype) for name, dtype in (_STORAGES | _DTYPES).items()}
    known["torch.storage.UntypedStorage"] = _Name("U8")
    known |= {
        "torch._utils._rebuild_tensor_v2": _Call("tensor", _tensor),
        "torch._utils._rebuild_tensor": _Call("tensor", _tensor),
        "torch._utils._rebuild_tensor_v3": _Call("tensor", _tensor_of_type),
        "torch._utils._rebuild_parameter": _Call("parameter", lambda tensor, *_: tensor),
        "torch._tensor._rebuild_from_type_v2": _Call("tensor", lambda does, kind, arguments, state: does(*arguments)),
        "torch.Tensor": _Name("Tensor"),
        "torch.nn.parameter.Parameter": _Name("Parameter"),
        "torch.Size": _Call("size", tuple),
        "torch.device": opaque,
        "collections.OrderedDict": _Call("dict", OrderedDict),
        "collections.Counter": _Call("dict", Counter),
        "builtins.set": _Call("set", set),
        "__builtin__.set": _Call("set", set),
        # The numpy random state in DeepSpeed's files: an array made from bytes.
        "_codecs.encode": _Call("bytes", lambda text, *_: text),
        "numpy.dtype": opaque,
        "numpy.ndarray": _Name("ndarray"),
        "numpy.dtypes.UInt32DType": opaque,
        "numpy._core.multiarray._reconstruct": opaque,
        "numpy.core.multiarray._reconstruct": opaque,
    }
    return known


_KNOWN = _known()


class _Reader(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, file: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _KNOWN:
            raise UserError(
                f"{self._file}: refused: it uses {full_name}, which can run code; expected tensors only. If you trust "
                "its source, load it yourself and save the tensors only, preferably as .safetensors"
            )
        return _KNOWN[full_name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Name(value=dtype), key, _, int(), *rest) if dtype in SIZES:
                view = rest[0] if rest and rest[0] else (None, 0, 0)  # (key, first element, number) of the older kind
                return _Storage(str(key), dtype, int(view[1]))
        raise pickle.UnpicklingError("an object outside the file")


def read(path: Path) -> Header:
    """Names, types, shapes and places of the tensors of its state dict: below ``module`` (SAT, DeepSpeed), below
    ``state_dict`` (VAE), or bare. Raises UserError for a damaged file, a Git LFS pointer, and one that contains more than tensors.
    """
    if git_lfs.is_pointer_file(path):
        raise UserError(f"{path}: {git_lfs.advice(path)}")
    try:
        content, places = _zip(path) if _begins(path, b"PK") else _legacy(path)
    except UserError:
        raise
    except (zipfile.BadZipFile, EOFError, KeyError, OSError) as error:
        raise _damaged(path, error) from None
    except Exception as error:  # the unpickler may raise anything for invalid data
        raise UserError(f"{path}: is not a torch file of tensors ({_first_line(error)}); download it again") from None
    named = dict(_tensors(content))
    if not named:
        raise UserError(
            f"{path}: contains no tensors; expected a state dict, at the top level or under `module` or `state_dict`"
        )
    note = content.get("cogtune") if isinstance(content, dict) else None  # cogtune's own metadata
    placed = {name: _placed(path, name, tensor, places) for name, tensor in named.items()}
    return Header(path, "torch file", dict(placed), {"cogtune": note} if isinstance(note, str) else {})


@dataclass(frozen=True)
class _StorageExtent:
    begin: int
    nbytes: int
    crc: int | None


def _zip(path: Path) -> tuple[Any, dict[str, _StorageExtent]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {info.filename: info for info in archive.infolist()}
        (pickled,) = [name for name in members if name.rpartition("/")[2] == "data.pkl"] or [""]
        if not pickled:
            raise UserError(f"{path}: is not a torch file of tensors (a zip without data.pkl)")
        root = pickled.removesuffix("data.pkl")
        if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
            raise UserError(f"{path}: written on a big-endian machine; save it again on a little-endian one")
        places: dict[str, _StorageExtent] = {}
        if packed := next((name for name, info in members.items() if info.compress_type != zipfile.ZIP_STORED), None):
            raise UserError(f"{path}: {packed} is compressed, which torch does not support; save it again with torch")
        with archive.open(pickled) as stream:
            content = _Reader(stream, path).load()  # pyright: ignore[reportArgumentType]
        for name, info in members.items():
            if name.startswith(root + "data/"):
                places[name.removeprefix(root + "data/")] = _StorageExtent(
                    _data_of(file, info), info.file_size, info.CRC
                )
    return content, places


def _data_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Offset of a member's data, after its local header (its extra field may differ from that of the central directory)."""
    file.seek(info.header_offset)
    local = file.read(30)
    if local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no local header for {info.filename}")
    return info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _legacy(path: Path) -> tuple[Any, dict[str, _StorageExtent]]:
    """The format before torch 1.6: four pickles, the storage keys, then the element count and bytes of each storage."""
    with path.open("rb") as file:
        magic, protocol, system = (_Reader(file, path).load() for _ in range(3))
        if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
            raise UserError(f"{path}: is not a torch file of tensors; expected .pt, .bin or .safetensors")
        if not (isinstance(system, dict) and system.get("little_endian", True)):
            raise UserError(f"{path}: written on a big-endian machine; save it again on a little-endian one")
        content = _Reader(file, path).load()
        keys = _Reader(file, path).load()
        types = {tensor.storage.key: tensor.storage.dtype for _, tensor in _all_tensors(content)}
        places: dict[str, _StorageExtent] = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little", signed=True)
            nbytes = count * SIZES[types.get(key, "U8")] if key in types else -1
            if nbytes < 0:
                raise UserError(f"{path}: unknown storage type; save the weights with torch 1.6 or later")
            places[key] = _StorageExtent(file.tell(), nbytes, None)
            file.seek(nbytes, 1)
    return content, places


def _all_tensors(content: Any) -> Iterator[tuple[str, _Tensor]]:
    """Every tensor anywhere in nested dicts, lists and tuples."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for name, value in inner:
        if isinstance(value, _Tensor):
            yield str(name), value
        elif isinstance(value, dict | list | tuple):
            yield from _all_tensors(value)


def _tensors(content: Any) -> Iterator[tuple[str, _Tensor]]:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if isinstance(content, dict):
        yield from ((name, value) for name, value in content.items() if isinstance(value, _Tensor))


def _placed(path: Path, name: str, tensor: _Tensor, places: dict[str, _StorageExtent]) -> Stored:
    if tensor.storage.key not in places:
        raise _damaged(path, f"data of {name} is missing")
    place, size = places[tensor.storage.key], SIZES[tensor.dtype]
    begin = place.begin + (tensor.storage.begin + tensor.offset) * size
    strides = None if tensor.strides == _row_by_row(tensor.shape) else tensor.strides
    stored = Stored(path, tensor.dtype, tensor.shape, begin, strides)
    end = min(place.begin + place.nbytes, path.stat().st_size)
    if begin < place.begin or begin + stored.nbytes > end:
        raise _damaged(path, f"{name} ends at byte {begin + stored.nbytes}, its storage at {end}")
    covers_storage = begin == place.begin and stored.nbytes == place.nbytes
    return Stored(path, tensor.dtype, tensor.shape, begin, strides, place.crc if covers_storage else None)


def _row_by_row(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _begins(path: Path, with_: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(with_)) == with_


def _damaged(path: Path, why: object) -> UserError:
    return UserError(f"{path}: incomplete or damaged weight file ({_first_line(why)}); download it again")


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
