"""GPUs: the driver against torch, one product on each, and the attention kernel."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cogtune.doctor.check import Check, ask

_TOPIC = "devices"
_SECONDS = 180.0
"""Torch takes 20 s to import from a busy network file system."""


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says. ``cuda``: the newest CUDA version that the driver supports; () if it does not say."""

    version: str
    cuda: tuple[int, ...]
    names: tuple[str, ...]


def read_driver() -> Driver | str:
    """The NVIDIA driver; or why it does not answer, "" if nvidia-smi is not installed."""
    listed = ask(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    if listed.code == 127:
        return ""
    rows = [row.rsplit(", ", 1) for row in listed.output.splitlines() if ", " in row]
    if not listed.ok or not rows:
        return listed.reason
    header = re.search(r"CUDA(?: UMD)? Version:\s*([0-9]+(?:\.[0-9]+)*)", ask(["nvidia-smi"]).output)
    cuda = tuple(map(int, header[1].split("."))) if header else ()
    return Driver(rows[0][1].strip(), cuda, tuple(row[0].strip() for row in rows))


def read_torch() -> dict[str, Any] | str:
    """The facts of `torch_probe`; or why there are none."""
    answer = ask([sys.executable, "-m", "cogtune.doctor.torch_probe"], _SECONDS)
    try:
        return json.loads(answer.output.splitlines()[-1])
    except (ValueError, IndexError):
        return answer.reason


def device_checks(driver: Driver | str, facts: dict[str, Any] | str) -> Iterator[Check]:
    """The driver, torch against it, each GPU, and the attention kernel."""
    yield driver_check(driver)
    if isinstance(facts, str):
        fix = 'run `python -c "import torch"` to see the whole error; reinstall torch for this machine'
        yield Check(_TOPIC, "torch", "FAIL", f"cannot be used: {facts}", fix)
        return
    yield torch_check(driver, facts)
    for index, device in enumerate(facts["devices"]):
        text = f"{device['name']}, {device['memory_mib'] / 1024:.0f} GiB"
        if device["error"]:
            fix = "install a torch build that supports this GPU; check it with `nvidia-smi -q`"
            yield Check(_TOPIC, f"GPU {index}", "FAIL", f"{text}: {device['error']}", fix)
        else:
            yield Check(_TOPIC, f"GPU {index}", "OK", text)
    yield attention_check(facts["attention"])


def driver_check(driver: Driver | str) -> Check:
    """The NVIDIA driver of this machine. No driver is no fault: stages run on the CPU, and a login node has none."""
    if isinstance(driver, Driver):
        cuda = f", supports CUDA up to {_dotted(driver.cuda)}" if driver.cuda else ""
        return Check(_TOPIC, "driver", "OK", f"NVIDIA {driver.version}{cuda}, {len(driver.names)} GPUs")
    if not driver:
        return Check(_TOPIC, "driver", "OK", "no NVIDIA driver on this machine: stages run on the CPU here")
    fix = "reboot after a driver update; otherwise reinstall the driver (see `dmesg | grep -i nvidia`)"
    return Check(_TOPIC, "driver", "FAIL", f"nvidia-smi fails: {driver}", fix)


def torch_check(driver: Driver | str, facts: dict[str, Any]) -> Check:
    """Whether torch can use the GPUs that the driver shows."""
    cuda = facts["cuda"]
    build = f"CUDA {cuda}" if cuda else f"ROCm {facts['hip']}" if facts["hip"] else "CPU only"
    text, count = f"{facts['torch']} ({build})", len(facts["devices"])
    if not isinstance(driver, Driver):
        return Check(_TOPIC, "torch", "OK", f"{text}, {count} GPUs")
    newest = f"for CUDA {_dotted(driver.cuda)} or older" if driver.cuda else "for CUDA"
    fix = f"install a torch build {newest}: see https://pytorch.org/get-started"
    if not cuda:
        return Check(_TOPIC, "torch", "FAIL", f"{text}: it cannot use the GPUs of this machine", fix)
    # Minor versions of CUDA are compatible with a driver of the same major version.
    if driver.cuda and int(cuda.split(".")[0]) > driver.cuda[0]:
        text += f": the driver {driver.version} supports CUDA up to {_dotted(driver.cuda)}"
        return Check(_TOPIC, "torch", "FAIL", text, f"update the driver, or {fix}")
    if not count:
        why = facts["error"] or "torch sees none of them"
        fix = "check CUDA_VISIBLE_DEVICES; on a cluster run it in a job that has a GPU (srun --gres=gpu:1 …)"
        return Check(_TOPIC, "torch", "FAIL", f"{text}: {len(driver.names)} GPUs, but {why}", fix)
    return Check(_TOPIC, "torch", "OK", f"{text}, {count} GPUs")


def attention_check(attention: dict[str, str]) -> Check:
    """The kernel of F.scaled_dot_product_attention."""
    text = f"{attention['kernel']}, in {attention['dtype']} on {attention['device']}"
    if attention["kernel"] != "math":
        return Check(_TOPIC, "attention", "OK", f"SDPA uses {text}")
    fix = "use a torch build with flash or memory-efficient attention for this GPU"
    return Check(_TOPIC, "attention", "WARN", f"SDPA uses {text}: it stores all N x N scores, and is slow", fix)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
