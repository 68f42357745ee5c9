"""Devices, dtypes and threads of torch."""

import os

import torch

from cogtune.errors import UserError

_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}


def visible_gpus() -> int:
    """Number of CUDA devices visible to this process (see CUDA_VISIBLE_DEVICES)."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_uuid(index: int) -> str:
    """Identifies a GPU in the whole machine, whatever part of them this process sees."""
    properties = torch.cuda.get_device_properties(index)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return str(properties.uuid)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def devices(number: int | None = None) -> list[torch.device]:
    """All CUDA devices visible to this process (see CUDA_VISIBLE_DEVICES), or the CPU. ``number``: only this one, see
    `device_for`."""
    if number is not None:
        return [device_for(number)]
    return [torch.device("cuda", index) for index in range(visible_gpus())] or [torch.device("cpu")]


def device_for(rank: int = 0) -> torch.device:
    """The device of local rank ``rank``; ranks beyond the number of devices share devices in turn."""
    available = devices()
    return available[rank % len(available)]


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a config's precision. Raises UserError for an unknown name."""
    try:
        return _DTYPES[name]
    except KeyError:
        raise UserError(f"precision {name!r}: expected one of {', '.join(_DTYPES)}") from None


def make_deterministic() -> None:
    """Have a GPU give the same bytes in every run. Call it before CUDA is used. On a CPU they are the same anyway.

    PyTorch then takes the deterministic variant of each kernel, and raises an error for one that has none. In the backward
    pass of attention these are slower: by default they add partial sums in the order in which they finish (atomics).
    """
    if not visible_gpus():
        return
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read by cuBLAS when it starts; 8 buffers of 4 MiB
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # nothing reads it
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it would choose kernels by their time
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass has no deterministic variant


def prepare_torch(threads: int | None = None) -> None:
    """Settings of every process that computes. fp32 means fp32: torch lets a GPU's convolutions round their inputs to 10
    bits of mantissa (TF32), which changed the output of the demo's network by 3e-4 on an H200.

    ``threads``: CPU threads per operator. Set by the config, because some sums depend on it in the last bits.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(max(1, threads))
