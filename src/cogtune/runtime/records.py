"""records/<stage>-<key>.json: what the runs of a job took together. It decides no result, so a damaged one counts as none."""

import json
from pathlib import Path
from typing import Any

_NUMBERS = ("runs", "seconds", "peak_memory_mib", "peak_gpu_mib", "made", "devices")
_TEXTS = ("stage", "key", "device")


def read_record(path: Path) -> dict[str, Any]:
    """The record; empty where there is none, or one with values that no run wrote. Runs and seconds are always there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or "runs" not in found or "seconds" not in found:
        return {}
    numbers = all(type(found[name]) in (int, float) and found[name] >= 0 for name in _NUMBERS if name in found)
    return found if numbers and all(isinstance(found[name], str) for name in _TEXTS if name in found) else {}
