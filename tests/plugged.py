"""A package with one class of one's own for every role that a config can name, and a config that names all of them.

Places and roles are read off the registry and the config, so a new role is met here without being listed.
"""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cogtune.config.registry import ENTRIES, NOT_PLUGGED, Entry, find

PACKAGE = "own_parts"
TINY = Path(__file__).parent / "workflow/tiny.yaml"
MARK = "as written in the config"

HEAD = """from dataclasses import dataclass
from pathlib import Path

import torch


def made(role, mark):
    with Path(__file__).with_name("made.txt").open("a") as file:
        file.write(f"{role}: {mark}\\n")
"""
PART = """
import {module}
from {params_module} import {params}


@dataclass(kw_only=True)
class {name}Params({params}):
    mark: str = ""


class {name}({module}.{base}):
    def __init__(self, params: {taken}, **runtime):
        super().__init__(params, **runtime)
        made({role!r}, getattr(params, "mark", {mark!r}))
"""
OPTIMIZER = """

class Optimizer(torch.optim.SGD):
    elementwise = True

    def __init__(self, params, lr: float = 1e-3, mark: str = "", weight_decay: float = 0.0):
        super().__init__(params, lr=lr, momentum=0.9, weight_decay=weight_decay)
        made("optimizer", mark)
"""


def class_name(role: str) -> str:
    return "".join(word.capitalize() for word in role.split())


def all_roles() -> set[str]:
    return {entry.role for entry in ENTRIES}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Entry]]:
    """(path, entry) of every node of a config that names a component."""
    if isinstance(node, dict) and isinstance(node.get("target"), str):
        yield path, find(node["target"])
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in inner:
        yield from places(value, (*path, name))


@cache
def _shipped() -> dict[str, Any]:
    return yaml.safe_load(TINY.read_text())


def tiny() -> dict[str, Any]:
    """The tiny config with a LoRA, so that every role has a place."""
    tree = copy.deepcopy(_shipped())
    lora = {"target": "Lora", "params": {"r": 4, "lora_alpha": 4}}
    tree["model"]["network_config"]["params"]["modules"]["lora_config"] = lora
    tree["model"]["not_trainable_prefixes"] = ["all"]
    tree["deepspeed"]["optimizer"] = {"type": "AdamW", "params": {"lr": 0.001}}
    return tree


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def by_role() -> dict[str, list[tuple[Any, ...]]]:
    """Where each role stands in `tiny`."""
    found: dict[str, list[tuple[Any, ...]]] = {"optimizer": [("deepspeed", "optimizer")]}
    for path, entry in places(tiny()):
        found.setdefault(entry.role, []).append(path)
    return found


def plug(tree: dict[str, Any], role: str) -> None:
    """Name our class of ``role`` wherever it fits, with one param more than cogtune's own class has."""
    for path in by_role()[role]:
        node = at(tree, path)
        node["type" if role == "optimizer" else "target"] = f"{PACKAGE}.{class_name(role)}"
        if role not in ("autoencoder", *NOT_PLUGGED):
            node["params"] = (node.get("params") or {}) | {"mark": MARK}


def source() -> str:
    """The package: one class for each role, derived from cogtune's own."""
    parts, tree = [HEAD, OPTIMIZER], tiny()
    for role, found in by_role().items():
        if role == "optimizer":
            continue
        entry = find(at(tree, found[0])["target"])
        (module, base), (params_module, params) = entry.target.split(":"), entry.params.split(":")
        name = class_name(role)
        taken = params if role == "autoencoder" else f"{name}Params"
        parts.append(
            PART.format(
                module=module, base=base, params_module=params_module, params=params, name=name, taken=taken, role=role,
                mark=MARK,
            )
        )  # fmt: skip
    return "".join(parts)
