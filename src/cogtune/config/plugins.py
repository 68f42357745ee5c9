"""Plugins: the user's own components, from packages that ``plugins:`` in config/config.yaml lists.

YAML alone imports nothing: a dotted target is looked up here only when its root package was listed, by a file that
holds no model and by a person who runs the workflow. Two kinds of class fit:

- ``def __init__(self, params: MyParams, …)`` with ``MyParams`` a dataclass, as cogtune's own components have it; the
  other arguments are filled in at run time.
- any other signature: the params are passed by keyword, and checked against its names and annotations.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.config.schema.common import REQUIRED, key

_LISTED: dict[str, str] = {}
"""Root package -> the folder that is searched after sys.path."""

_METHODS = {
    "network": ("forward",), "sampler": ("__call__",), "guider": ("scale",), "discretization": ("__call__", "timesteps"),
    "denoiser": ("__call__",), "loss": ("__call__",), "timesteps": ("index", "alpha"), "scaling": ("__call__",),
    "autoencoder": ("encode", "decode"), "regularizer": ("sample", "mode"), "embedder": ("encode", "tokens"),
    "optimizer": ("step",),
}  # fmt: skip
_TORCH_OPTIMIZER = "torch.optim.optimizer:Optimizer"
_SCALARS = (bool, int, float, str, type(None))


def allow_plugins(names: Iterable[str] | Mapping[str, str], folder: str | Path = ".") -> None:
    """Let targets below these root packages be imported, for the rest of this process.

    ``folder`` is searched for them after sys.path; a mapping names a folder for each. Raises ConfigError for a name
    that is no package, or one of Python's or cogtune's own.
    """
    folders = names if isinstance(names, Mapping) else dict.fromkeys(names, str(Path(folder).resolve()))
    for name, place in folders.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(f"{name!r} is no root package; expected a name like my_samplers", key="plugins")
        if name in sys.stdlib_module_names or name == "cogtune":
            raise ConfigError(f"{name!r} is not a package of your own; YAML must not reach it", key="plugins")
        if place not in sys.path:
            sys.path.append(place)
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"no package {name!r}; expected it to be installed, or {name}.py or {name}/ in {place}", key="plugins"
            )
        _LISTED[name] = place


def is_listed(target: str) -> bool:
    """Whether a target lies in a listed package."""
    return target.partition(".")[0] in _LISTED and "." in target


def source_of(name: str) -> Path:
    """The file or folder that holds the source of a listed package; nothing is imported. Raises ConfigError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise ConfigError(f"{name!r} has no source file, so it cannot be told when it changed", key="plugins")
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0] if folders else str(spec.origin))


def used_by(values: Any) -> dict[str, str]:
    """Listed packages that a config's targets lie in, each with its search folder."""
    found: dict[str, str] = {}
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    for value in inner:
        found |= used_by(value)
    for target in _named(values):
        root = target.partition(".")[0]
        found[root] = _LISTED[root]
    return found


def _named(node: Any) -> list[str]:
    """The listed classes that a node names itself; the optimizer says `type`."""
    named = (node.get("target"), node.get("type")) if isinstance(node, dict) else ()
    return [target for target in named if isinstance(target, str) and is_listed(target)]


def load_used(values: Any) -> None:
    """Import the classes of listed packages that a config's targets name: their code is then that of this moment."""
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    for value in inner:
        load_used(value)
    for target in _named(values):
        load_class(target)


def load_class(target: str, role: str = "") -> type:
    """The class behind a listed target. Raises ConfigError when it is not there, or lacks what ``role`` needs."""
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a plugin must not end cogtune, least of all with exit code 0
        raise ConfigError(f"target {target!r} cannot be imported: {type(error).__name__}: {error}") from error
    root = target.partition(".")[0]
    if not inspect.isclass(found) or found.__module__.partition(".")[0] != root:
        raise ConfigError(f"target {target!r}: expected a class that {root} defines; found {found!r}")
    missing = [method for method in _METHODS.get(role, ()) if not any(method in vars(base) for base in found.__mro__)]
    if missing:
        raise ConfigError(f"target {target!r} is no {role}: it has no {' and no '.join(missing)}")
    if role == "optimizer" and _TORCH_OPTIMIZER not in lineage(found):
        raise ConfigError(f"target {target!r} is no optimizer: it does not derive from torch.optim.Optimizer")
    return found


def lineage(cls: type) -> list[str]:
    """``module:Class`` of a class and of all that it derives from, nearest first."""
    return [f"{base.__module__}:{base.__qualname__}" for base in cls.__mro__]


def schema_of(cls: type, role: str = "") -> type:
    """The dataclass that the params of a plugin class are checked against. The first argument of an optimizer is
    PyTorch's parameter groups, which no config names."""
    return takes_params(cls) or _from_signature(cls, skipped=role == "optimizer")


def takes_params(cls: type) -> type | None:
    """The annotated dataclass of a first argument ``params``, if the class has one."""
    first = next(iter(inspect.signature(cls).parameters.values()), None)
    if first is None or first.name != "params":
        return None
    found = _hints(cls).get("params")
    return found if inspect.isclass(found) and dataclasses.is_dataclass(found) else None


def _from_signature(cls: type, skipped: int) -> type:
    """``skipped``: arguments in front that are filled in at run time."""
    hints, fields = _hints(cls), []
    for parameter in list(inspect.signature(cls).parameters.values())[skipped:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        declared = key(default, f"{parameter.name} of {cls.__name__}")
        fields.append((parameter.name, _checkable(hints.get(parameter.name, Any)), declared))
    return dataclasses.make_dataclass(f"{cls.__name__}Params", fields, kw_only=True)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)
    except Exception:  # an annotation that names what is not imported says nothing about the params
        return {}


def _checkable(kind: Any) -> Any:
    """The annotation as far as the schema knows such types; Any otherwise, which takes a value as written."""
    from cogtune.config.key_types import members

    for member in members(kind):
        origin, inner = typing.get_origin(member), typing.get_args(member)
        plain_list = origin is list and inner and inner[0] in _SCALARS
        if member not in _SCALARS and not plain_list and origin is not dict:
            return Any
    return kind
