"""Targets: which names a config may use, and which class stands behind each. YAML never imports anything."""

import difflib
import importlib
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from cogtune.config.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """One component: its canonical name, ``module:Class`` of params and class (both lazy), upstream's names."""

    name: str
    params: str
    target: str
    aliases: tuple[str, ...] = ()


_SGM = "sgm.modules.diffusionmodules"
_SCHEMA = "cogtune.config.schema"


def _entry(name: str, schema: str, module: str, *aliases: str, params: str = "") -> Entry:
    return Entry(name, f"{_SCHEMA}.{schema}:{params or name + 'Params'}", f"{module}:{name}", aliases)


def _diffusion(name: str, module: str, upstream: str = "") -> Entry:
    return _entry(name, "diffusion", f"cogtune.diffusion.{module}", f"{_SGM}.{upstream or module}.{name}")


ENTRIES = (
    _entry("VideoAutoencoder", "vae", "cogtune.model.vae.autoencoder", "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper"),
    _entry("Encoder3D", "vae", "cogtune.model.vae.encoder", "vae_modules.cp_enc_dec.ContextParallelEncoder3D"),
    _entry("Decoder3D", "vae", "cogtune.model.vae.decoder", "vae_modules.cp_enc_dec.ContextParallelDecoder3D"),
    _entry("DiagonalGaussian", "vae", "cogtune.model.vae.regularizer", "vae_modules.regularizers.DiagonalGaussianRegularizer"),
)


@cache
def _by_name() -> dict[str, Entry]:
    return {name: entry for entry in ENTRIES for name in (entry.name, *entry.aliases)}


def find(target: str) -> Entry:
    """The entry of a canonical name or alias; ConfigError with the nearest valid name otherwise."""
    if target not in _by_name():
        near = difflib.get_close_matches(target, _by_name(), n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown target {target!r}{hint}")
    return _by_name()[target]


def params_of(node: dict[str, Any]) -> Any:
    """The params dataclass of a {target, params} node; ConfigError for an unknown key."""
    entry = find(node["target"])
    kind = _load(entry.params)
    given, known = node.get("params") or {}, {field.name for field in fields(kind)}
    for name in given:
        if name not in known:
            raise ConfigError(f"{entry.name}: unknown key {name!r}; expected one of {', '.join(sorted(known))}")
    return kind(**given)


def build(node: dict[str, Any], **runtime: Any) -> Any:
    """The object that a {target, params} node describes: ``Class(params, **runtime)``."""
    return _load(find(node["target"]).target)(params_of(node), **runtime)


def _load(name: str) -> Any:
    module, _, member = name.partition(":")
    return getattr(importlib.import_module(module), member)
