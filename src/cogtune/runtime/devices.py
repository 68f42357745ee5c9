"""Devices, dtypes and threads of torch."""

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


def prepare_torch(threads: int | None = None) -> None:
    """Settings of every process that computes. fp32 means fp32: torch lets a GPU's convolutions round their inputs to 10
    bits of mantissa (TF32), which changed the output of the demo's network by 3e-4 on an H200.

    ``threads``: CPU threads per operator. Set by the config, because some sums depend on it in the last bits.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(max(1, threads))
