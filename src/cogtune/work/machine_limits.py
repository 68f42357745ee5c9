"""Requirements of an experiment that this machine cannot meet, reported before any stage runs."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from cogtune.runtime.machines import Device, device_names
from cogtune.work.workspace import Workspace

_ASK_TORCH = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def needs_gpu(values: Mapping[str, Any]) -> str | None:
    """Why a config cannot be trained on a CPU, or None. ``values``: canonical."""
    deepspeed: dict[str, Any] = values.get("deepspeed") or {}
    fp16: dict[str, Any] = deepspeed.get("fp16") or {}
    if values["args"].get("mode") == "inference" or not fp16.get("enabled"):
        return None
    return "deepspeed.fp16.enabled: a CPU cannot train in fp16; set it to false, or use bf16"


def cannot_train_on(values: Mapping[str, Any], device: Device) -> list[str]:
    """The warnings of a plan for ``device``."""
    problem = None if device.gpu else needs_gpu(values)
    return [f"cannot run: {problem}"] if problem else []


@cache
def has_gpu() -> bool:
    """Whether this machine has a GPU, by its driver, or else by PyTorch."""
    return (
        device_names() != ["CPU"]
        or not subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True).returncode
    )


def unknown_device(workspace: Workspace) -> list[str]:
    """A message if it is not known what jobs on other machines run on: they would request no GPU."""
    if workspace.device is not None or has_gpu():
        return []
    return [
        "device: not set, and this machine has no GPU, so jobs on other machines would request none; expected their GPU "
        "in `config:` of the profile (`device=A100`), or `device=CPU`. `--config` on the command line replaces the "
        "profile's whole list"
    ]


def refused_here(workspace: Workspace, targets: Iterable[str], files_exist: bool = True) -> list[str]:
    """A message for each of ``targets``, or experiment that it starts from, with unfinished training that this machine
    cannot run.

    ``files_exist``: False before the demo's data are made. Then nothing is trained yet, and only targets are checked.
    """
    if files_exist:
        links = (link for target in targets for link in workspace.chain(target))
        configs = {name: workspace.config(name) for name in links}
    else:
        configs = {name: workspace.check(name) for name in targets}
    problems: list[str] = []
    for name, config in configs.items():
        problem = needs_gpu(config.values)
        if problem and not has_gpu() and not (files_exist and _trained(workspace, name)):
            problems.append(f"{name}: {problem}, or run the workflow on a machine with a GPU")
    return problems


def _trained(workspace: Workspace, name: str) -> bool:
    if not all(receipt.exists() for receipt in workspace.scan_receipts(name)):
        return False
    part = workspace.slices(name)["train"]
    return (workspace.store / "train" / part.key / "final").is_dir()
