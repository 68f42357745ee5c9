"""per_sample.json and the table of metrics: what is written is read, what is odd is told, and a metric has one row."""

import json
import re
from pathlib import Path

import pytest

from cogtune.data.listing import ClipRow
from cogtune.evaluation.metrics import METRICS, PSNR
from cogtune.evaluation.sample_figures import Sample, SampleFigures, read_metrics, read_per_sample, with_names
from cogtune.runtime.saved import DamagedError

SOURCE = Path(__file__).parents[3] / "src" / "cogtune"
CLIP, OTHER = "c" * 64, "d" * 64
FIGURES = [
    SampleFigures(Sample("a.tuned", "a", "tuned", "a wave", CLIP), CLIP, {"psnr_db": 20.5, "ssim": 0.5}),
    SampleFigures(Sample("a.base", "a", "base", "a wave", CLIP), OTHER, {"psnr_db": 9.5, "ssim": 0.1}),
    SampleFigures(Sample("prompt-00000.tuned", "prompt-00000", "tuned", "", None)),
]


def write(folder: Path, rows: object) -> Path:
    (folder / "per_sample.json").write_text(json.dumps(rows))
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = read_per_sample(write(tmp_path, [one.to_json() for one in FIGURES]))
    assert found == FIGURES
    assert [one.hit for one in found] == [True, False, None]


def test_names_of_files_are_in_the_results_only() -> None:
    manifest = [ClipRow(CLIP, "/a.mp4", "a.mp4", "train", "a wave", "e" * 64, 9, 8.0, 48, 32)]
    rows = [one.to_json(names=True) for one in with_names(FIGURES, manifest)]
    assert [(row.get("name"), row.get("nearest_name")) for row in rows] == [
        ("a.mp4", "a.mp4"), ("a.mp4", None), (None, None)
    ]  # fmt: skip
    assert "name" not in FIGURES[0].to_json()
    assert "name" not in rows[2]


WRONG = [
    *({name: 5} for name in ("item", "prompt", "variant", "caption", "clip", "nearest")),
    *({metric.name: "odd"} for metric in METRICS if metric.compute is not None),
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: next(iter(change)))
def test_each_field_that_is_wrong_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(DamagedError, match=rf"per_sample\.json: expected .*{next(iter(change))}"):
        read_per_sample(write(tmp_path, [FIGURES[0].to_json() | change]))


@pytest.mark.parametrize("rows", [None, 5, {}, [None], [[]], ["text"]])
def test_no_list_of_objects(tmp_path: Path, rows: object) -> None:
    with pytest.raises(DamagedError, match=r"per_sample\.json: expected"):
        read_per_sample(write(tmp_path, rows))


@pytest.mark.parametrize("text", ["", "[]", '{"samples.psnr_db": "x"}', '{"samples.psnr_db": true}'])
def test_odd_metrics(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DamagedError, match=r"metrics\.json: expected"):
        read_metrics(tmp_path)


def test_keys_of_variants() -> None:
    assert [PSNR.key(), PSNR.key("tuned"), PSNR.key("base")] == [*["samples.psnr_db"] * 2, "samples.psnr_db_base"]


def test_a_metric_is_named_in_its_row_only() -> None:
    """Another metric is a function, a row of METRICS and tests; psnr_db names figures of the VAE as well."""
    names = "|".join(re.escape(word) for metric in METRICS for word in (metric.name, metric.title) if metric != PSNR)
    files = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".j2")]
    naming = {path.relative_to(SOURCE).as_posix() for path in files if re.search(rf"\b({names})\b", path.read_text())}
    assert naming == {"evaluation/metrics.py"}
