"""Read records and receipts: information about runs that affects no result. Damaged values are ignored."""

import json
from pathlib import Path
from typing import Any, cast

from cogtune.runtime.saved import DamagedError, read_sealed

_NUMBERS = ("runs", "seconds", "peak_memory_mib", "peak_gpu_mib", "made", "devices")
_TEXTS = ("stage", "key", "device")
_COUNTS = ("made", "reused", "train", "valid", "rejected", "other_files", "steps")


def read_record(path: Path) -> dict[str, Any]:
    """The record; empty if missing or invalid. It always has runs and seconds."""
    try:
        record = read_sealed(path, {}, "")
    except (OSError, DamagedError):
        return {}
    if "runs" not in record or "seconds" not in record or not isinstance(record.get("run", {}), dict):
        return {}
    numbers = all(_is_number(record[name]) and record[name] >= 0 for name in _NUMBERS if name in record)
    return record if numbers and all(isinstance(record[name], str) for name in _TEXTS if name in record) else {}


def read_receipt(path: Path) -> dict[str, Any]:
    """The content of a receipt; empty if there is none. For Snakemake only its existence counts: an invalid receipt
    still gives its stage and key, and counts of a wrong type are omitted."""
    if not path.is_file():
        return {}
    stage, _, key = path.stem.rpartition("-")
    receipt = {"stage": stage, "key": key} | read_object(path)
    return {name: value for name, value in receipt.items() if name not in _COUNTS or type(value) is int}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if missing or invalid."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
