"""A report says which video of a sample or clip is missing or cut off, and what makes it again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cogtune.evaluation.report import page
from cogtune.evaluation.report.compare import Member
from cogtune.evaluation.report.compare import render as render_sweep
from cogtune.evaluation.report.gather import strips
from cogtune.evaluation.report.report_data import DataFacts, ReportData, ReportRow
from cogtune.evaluation.sample_figures import Sample, SampleFigures
from cogtune.sampling.prompts import ID_DIGITS
from cogtune.sampling.video import write_mp4

CLIP = "c" * 64
FIGURES = SampleFigures(Sample("p.tuned", "p", "tuned", "words", CLIP), clip_name="a.mp4")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.fixture
def views(tmp_path: Path) -> list[Path]:
    found = [
        tmp_path / "store/sample/0123456789ab/videos/p.tuned.mp4",
        tmp_path / f"store/evaluate/ba9876543210/clips/{CLIP[:ID_DIGITS]}.mp4",
    ]
    for path in found:
        write_mp4(path, np.zeros((2, 32, 48, 3), np.uint8), 8)
    return found


def shown(views: list[Path]) -> list[ReportRow]:
    sample, clip = views
    return strips([FIGURES], sample.parent, clip.parent, sample.parents[1] / "images")


def rendered(found: list[ReportRow]) -> str:
    return page.render(ReportData("p", {"samples.count": 1}, {}, found, [], [], DataFacts(), [], [], "", {}))


@pytest.mark.heavy
@pytest.mark.parametrize(("damage", "said"), [(Path.unlink, "is missing"), (cut, "is truncated")])
@pytest.mark.parametrize("number", [0, 1])
def test_the_page_says_so(views: list[Path], damage: Callable[[Path], None], said: str, number: int) -> None:
    html = rendered(shown(views))
    assert (html.count("<video"), html.count('class="lack"')) == (2, 0)
    damage(views[number])
    html = rendered(shown(views))
    assert (html.count("<video"), html.count('class="lack"')) == (1, 1)
    name, key = views[number].name, views[number].parents[1].name
    assert f"{views[number].parent.name}/{name} {said}: `cogtune store verify {key} --repair" in html


def test_a_sweep_says_so(views: list[Path]) -> None:
    views[0].unlink()
    member = Member("one", {"args.seed": 1}, {}, {}, [], [], shown(views))
    html = render_sweep("sweep", [member, member])
    assert (html.count("<video"), html.count('class="lack"')) == (1, 2)
