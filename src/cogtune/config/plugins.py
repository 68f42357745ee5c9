"""Plugins: user-defined components, from packages listed under ``plugins:`` in config/config.yaml.

YAML alone imports nothing: a dotted target is imported only if its root package is listed in config/config.yaml,
which a model file cannot do. Two kinds of class are supported:

- ``def __init__(self, params: MyParams, …)`` with ``MyParams`` a dataclass, as in cogtune's own components; the
  other arguments are filled in at run time.
- any other signature: the params are passed as keyword arguments, and checked against its names and annotations.
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
from cogtune.config.schema.common import REQUIRED, key, with_article

_LISTED: dict[str, str] = {}
"""Root package -> the folder searched after sys.path."""

_METHODS = {
    "network": ("forward",), "sampler": ("__call__",), "guider": ("scale",), "discretization": ("__call__", "timesteps"),
    "denoiser": ("__call__",), "loss": ("__call__",), "timesteps": ("index", "alpha"), "scaling": ("__call__",),
    "autoencoder": ("encode", "decode"), "regularizer": ("sample", "mode"), "embedder": ("encode", "tokens"),
    "optimizer": ("step",),
}  # fmt: skip
_TORCH_OPTIMIZER = "torch.optim.optimizer:Optimizer"
_SCALARS = (bool, int, float, str, type(None))


def allow_plugins(names: Iterable[str] | Mapping[str, str], folder: str | Path = ".") -> None:
    """Allow targets below these root packages to be imported, for the rest of this process.

    ``folder`` is searched for them after sys.path; a mapping names a folder for each. Raises ConfigError for a name
    that is not a package, or that belongs to Python or cogtune.
    """
    folders = names if isinstance(names, Mapping) else dict.fromkeys(names, str(Path(folder).resolve()))
    for name, place in folders.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(
                f"{name!r} is not a top-level package name; expected a name like my_samplers", key="plugins"
            )
        if name in sys.stdlib_module_names or name == "cogtune":
            raise ConfigError(f"{name!r} is part of Python or cogtune, so it cannot be a plugin", key="plugins")
        if place not in sys.path:
            sys.path.append(place)
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"no package {name!r}; install it, or put {name}.py or {name}/ into {place}", key="plugins"
            )
        _LISTED[name] = place


def is_listed(target: str) -> bool:
    """Whether a target is in a listed package."""
    return target.partition(".")[0] in _LISTED and "." in target


def source_of(name: str) -> Path:
    """The file or folder that holds the source of a listed package; nothing is imported. Raises ConfigError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        raise ConfigError(f"{name!r} has no source file, so changes to it cannot be detected", key="plugins")
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0] if folders else str(spec.origin))


def used_by(values: Any) -> dict[str, str]:
    """Listed packages that a config's targets use, each with its search folder."""
    folders: dict[str, str] = {}
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    for value in inner:
        folders |= used_by(value)
    for target in _named(values):
        root = target.partition(".")[0]
        folders[root] = _LISTED[root]
    return folders


def _named(node: Any) -> list[str]:
    """The plugin classes that a node names itself: `target`, or `type` of the optimizer."""
    named = (node.get("target"), node.get("type")) if isinstance(node, dict) else ()
    return [target for target in named if isinstance(target, str) and is_listed(target)]


def load_used(values: Any) -> None:
    """Import the plugin classes that a config's targets name, so that later edits of their files have no effect."""
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    for value in inner:
        load_used(value)
    for target in _named(values):
        load_class(target)


def load_class(target: str, role: str = "") -> type:
    """The class of a listed target. Raises ConfigError if it is missing, or lacks methods that ``role`` needs."""
    module_name, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a plugin must not end cogtune, in particular not with exit code 0
        raise ConfigError(f"target {target!r} cannot be imported: {type(error).__name__}: {error}") from error
    root = target.partition(".")[0]
    if not inspect.isclass(cls) or cls.__module__.partition(".")[0] != root:
        raise ConfigError(f"target {target!r}: expected a class that {root} defines; found {cls!r}")
    missing = [method for method in _METHODS.get(role, ()) if not any(method in vars(base) for base in cls.__mro__)]
    if missing:
        raise ConfigError(f"target {target!r} is not {with_article(role)}: missing method {' and '.join(missing)}")
    if role == "optimizer" and _TORCH_OPTIMIZER not in lineage(cls):
        raise ConfigError(f"target {target!r} is not an optimizer: it does not derive from torch.optim.Optimizer")
    return cls


def lineage(cls: type) -> list[str]:
    """``module:Class`` of a class and its base classes, in method resolution order."""
    return [f"{base.__module__}:{base.__qualname__}" for base in cls.__mro__]


def schema_of(cls: type, role: str = "") -> type:
    """The dataclass that the params of a plugin class are checked against. The first argument of an optimizer is
    PyTorch's parameter groups, which do not come from the config."""
    return takes_params(cls) or _from_signature(cls, skipped=role == "optimizer")


def takes_params(cls: type) -> type | None:
    """The annotated dataclass of a first argument ``params``, if the class has one."""
    first = next(iter(inspect.signature(cls).parameters.values()), None)
    if first is None or first.name != "params":
        return None
    hint = _hints(cls).get("params")
    return hint if inspect.isclass(hint) and dataclasses.is_dataclass(hint) else None


def _from_signature(cls: type, skipped: int) -> type:
    """``skipped``: number of leading arguments that are filled in at run time."""
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
    except Exception:  # an annotation that cannot be resolved gives no type to check
        return {}


def _checkable(kind: Any) -> Any:
    """The annotation if the schema supports its type; else Any, which accepts every value."""
    from cogtune.config.key_types import members

    for member in members(kind):
        origin, inner = typing.get_origin(member), typing.get_args(member)
        plain_list = origin is list and inner and inner[0] in _SCALARS
        if member not in _SCALARS and not plain_list and origin is not dict:
            return Any
    return kind
