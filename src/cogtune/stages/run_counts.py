"""What a run of a stage did: its receipt holds it, and the log line at its end."""

from dataclasses import dataclass
from typing import Any

from cogtune.runtime.typed_json import to_json


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """``made``: units that this run computed, 0 if all were in the store; ``reused``: units that were there."""

    made: int
    reused: int

    def to_json(self) -> dict[str, Any]:
        """As a receipt holds it; a field that is None is left out."""
        return to_json(self)


@dataclass(frozen=True, kw_only=True)
class EncodedCounts(RunCounts):
    """Of a stage that encodes clips. ``skipped``: clips that preprocess rejected."""

    skipped: int
