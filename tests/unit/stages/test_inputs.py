"""Every field of a stage's input is read by the stage: what is identity and read by nobody says so (`unread`)."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from cogtune.data.clips import ClipSettings
from cogtune.work.stage_input import Unread
from cogtune.work.stages import SAMPLING, STAGES, SWEEP, Stage

SOURCE = Path(__file__).resolve().parents[3] / "src" / "cogtune"
ROWS = {f"{row.name}, {row.input.__name__}": row for row in [*STAGES.values(), *SAMPLING.values(), SWEEP]}
READERS = {
    "images": ("stages/latents.py",),  # both decode clips in the same way
    "train": (
        "train/session.py",
        "stages/sample.py",
        "stages/sampled_models.py",
    ),  # sampling rebuilds the model from it
    "sample": ("sampling/prompts.py", "stages/sampled_models.py"),
    "report": ("stages/report_setup.py",),
}
"""Files that read a stage's input beside its own."""
HOLDERS = {"input", "given", "settings", "model"}
"""Names under which an input is held."""


def reads(path: Path) -> set[str]:
    """Fields that a file reads of what is held as an input."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            holder = node.value
            name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
            found |= {node.attr} if name in HOLDERS else set()
    return found


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_field_is_read(row: Stage) -> None:
    used = {name for file in (f"stages/{row.name}.py", *READERS.get(row.name, ())) for name in reads(SOURCE / file)}
    used |= {field.name for field in fields(ClipSettings)} if row.name == "preprocess" else set()
    declared = {field.name for field in fields(row.input) if field.type is not Unread}
    assert declared <= used, f"{row.name}: nobody reads {sorted(declared - used)}"


def test_stages_read_their_slice_through_their_input_only() -> None:
    """Nested dicts would be read with a second default, and past the type checker."""
    for path in (SOURCE / "stages").glob("*.py"):
        calls = path.read_text().count("slice.config()")
        assert calls == {"job.py": 1, "execute.py": 1, "train.py": 1, "train_costs.py": 1}.get(path.name, 0), path.name
