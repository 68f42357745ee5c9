"""What an experiment asks for and this machine cannot do: told before the caches are made, and not by train after them."""

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from cogtune.runtime.machines import Device, device_names
from cogtune.work.workspace import Workspace

_ASK_TORCH = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def needs_gpu(values: Mapping[str, Any]) -> str | None:
    """Why a config cannot be trained on a CPU, or None. ``values``: canonical."""
    if values["args"].get("mode") == "inference" or not ((values.get("deepspeed") or {}).get("fp16") or {}).get(
        "enabled"
    ):
        return None
    return "deepspeed.fp16.enabled: a CPU cannot train in fp16; set it to false, or use bf16"


def cannot_train_on(values: Mapping[str, Any], device: Device) -> list[str]:
    """What a plan for ``device`` warns of."""
    problem = None if device.gpu else needs_gpu(values)
    return [f"cannot run: {problem}"] if problem else []


@cache
def has_gpu() -> bool:
    """Whether jobs on this machine find a GPU. PyTorch knows for certain; it is asked where the driver lists none."""
    return (
        device_names() != ["CPU"]
        or not subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True).returncode
    )


def refused_here(workspace: Workspace) -> list[str]:
    """A sentence for each target, or what it starts from, that has training left which this machine cannot do."""
    found = {}
    for name in (link for target in workspace.targets for link in workspace.chain(target)):
        problem = needs_gpu(workspace.config(name).values)
        if problem and not has_gpu() and not _trained(workspace, name):
            found[name] = f"{name}: {problem}, or run the workflow where a GPU is"
    return list(found.values())


def _trained(workspace: Workspace, name: str) -> bool:
    if not all(receipt.exists() for receipt in workspace.scan_receipts(name)):
        return False
    part = workspace.slices(name)["train"]
    return (workspace.store / "train" / part.key / "final").is_dir()
