"""What torch can use on this machine, as JSON on standard output. A process of its own: `cogtune doctor` can stop it, and a
crash in a driver does not end the other checks."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

_HEADS, _WIDTH, _TOKENS = 30, 64, 512
"""Heads and their width of CogVideoX-2B; few tokens, as the choice of the kernel does not depend on their number."""
_FUSED = ("cudnn", "flash", "efficient", "overrideable")


class _Names(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def attention_kernel(device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that `F.scaled_dot_product_attention` runs here: flash, cudnn, efficient, overrideable, or math."""
    q_BHND = torch.zeros(1, _HEADS, _TOKENS, _WIDTH, device=device, dtype=dtype)
    with torch.no_grad(), _Names() as operators:
        F.scaled_dot_product_attention(q_BHND, q_BHND, q_BHND)
    used = [name for name in operators.names if "_scaled_dot_product" in name]
    return next((kernel for kernel in _FUSED for name in used if kernel in name), "math")


def _device(index: int) -> dict[str, Any]:
    """Name, memory in MiB and the result of one matrix product in bf16."""
    properties = torch.cuda.get_device_properties(index)
    fact: dict[str, Any] = {"name": properties.name, "memory_mib": properties.total_memory // 2**20, "error": ""}
    try:
        a = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.bfloat16)
        if float((a @ a).float().mean()) != 64.0:
            fact["error"] = "a matrix product in bf16 is wrong"
    except RuntimeError as error:
        fact["error"] = str(error).splitlines()[0]
    return fact


def main() -> None:
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
    facts["error"] = ""
    if torch.version.cuda or torch.version.hip:
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            facts["error"] = str(error).splitlines()[0]
    available = torch.cuda.is_available()
    facts["devices"] = [_device(index) for index in range(torch.cuda.device_count())] if available else []
    usable = available and not any(device["error"] for device in facts["devices"])
    device, dtype = torch.device("cuda" if usable else "cpu"), torch.bfloat16 if usable else torch.float32
    facts["attention"] = {"kernel": attention_kernel(device, dtype), "device": device.type, "dtype": str(dtype)[6:]}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
