"""Which validation clip belongs to which set of `args.valid_data`."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cogtune.config.valid_data import ValidData, by_set
from cogtune.data.listing import ClipRow
from cogtune.data.rows import Pair
from cogtune.data.walk import escaped

_log = logging.getLogger(__name__)
_OTHER = "validation"


def validation_sets(rows: Sequence[ClipRow], valid_data: ValidData) -> dict[str, list[Pair]]:
    """The validation clips among ``rows`` by set, in the order of ``valid_data``. A clip is in the first set with a folder
    that holds its file; a set without a usable clip is left out, with a warning.

    The paths in a manifest are those of the run that scanned. Clips outside all folders form a set of their own.
    """
    held_out = [row for row in rows if row.split == "valid"]
    named = by_set(valid_data)
    roots = [(name, Path(escaped(os.path.realpath(folder)))) for name, listed in named.items() for folder in listed]
    sets: dict[str, list[Pair]] = {name: [] for name in named}
    for row in held_out:
        path = Path(row.path)
        name = next((name for name, root in roots if path.is_relative_to(root)), _OTHER)
        sets.setdefault(name, []).append(Pair(row.clip, row.caption_id))
    for name in [name for name, pairs in sets.items() if not pairs]:
        del sets[name]
        _log.warning("[train] args.valid_data: no usable clip in validation set %s; it is left out", name)
    return sets
