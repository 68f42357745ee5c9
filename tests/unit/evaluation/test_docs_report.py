"""docs/report.md names the files and folders that a report names."""

import re
from pathlib import Path

import pytest

from cogtune.evaluation.report.report_data import Exported
from cogtune.evaluation.report.use import Base, Clip, use

PAGE = (Path(__file__).resolve().parents[3] / "docs/report.md").read_text()


@pytest.mark.heavy  # imports torch
def test_the_table_for_comfyui_is_that_of_the_report() -> None:
    from cogtune.model.weights.formats import FORMATS

    formats = ("diffusers_lora", "comfyui_lora", "folded_lora", "diffusers")
    exports = [Exported(name, FORMATS[name].path, 1.0, 0.0, "none") for name in formats]
    clip = Clip("a fox", 480, 720, 17, 8.0, 50, 6.0, True, "float16")
    made = use("mine", "export", Path("/"), exports, Base("base"), clip)
    expected = [(row.file.removeprefix("export/"), row.folder.rpartition("/mine")[0]) for row in made.comfyui]
    rows = re.findall(r"^\| `([^`]+?)/?`.*\| `(ComfyUI/[^`]+?)/` \|$", PAGE, re.MULTILINE)
    assert rows == expected
