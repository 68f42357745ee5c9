"""What tells of runs and decides no result: records and receipts. Damaged values count as none."""

import json
from pathlib import Path
from typing import Any, cast

from cogtune.runtime.saved import DamagedError, read_sealed

_NUMBERS = ("runs", "seconds", "peak_memory_mib", "peak_gpu_mib", "made", "devices")
_TEXTS = ("stage", "key", "device")
_COUNTS = ("made", "reused", "train", "valid", "rejected", "other_files", "steps")


def read_record(path: Path) -> dict[str, Any]:
    """The record; empty where there is none, or one that no run wrote. Runs and seconds are always there."""
    try:
        found = read_sealed(path, {}, "")
    except (OSError, DamagedError):
        return {}
    if "runs" not in found or "seconds" not in found or not isinstance(found.get("run", {}), dict):
        return {}
    numbers = all(_is_number(found[name]) and found[name] >= 0 for name in _NUMBERS if name in found)
    return found if numbers and all(isinstance(found[name], str) for name in _TEXTS if name in found) else {}


def read_receipt(path: Path) -> dict[str, Any]:
    """What a receipt says; empty if there is none. Snakemake believes that it is there, whatever it says: of one that
    does not read, its name is left, and a count of another type is left out."""
    if not path.is_file():
        return {}
    stage, _, key = path.stem.rpartition("-")
    found = {"stage": stage, "key": key} | read_object(path)
    return {name: value for name, value in found.items() if name not in _COUNTS or type(value) is int}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none to read."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
