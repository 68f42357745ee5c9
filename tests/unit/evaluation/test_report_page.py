import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cogtune.evaluation.metrics import METRICS as ALL_METRICS
from cogtune.evaluation.metrics import PSNR, RETRIEVAL
from cogtune.evaluation.report import page, plots, summary_text
from cogtune.evaluation.report.report_data import (
    DataFacts,
    Exported,
    LossPoint,
    ReportData,
    ReportRow,
    ReportVideo,
    StageFacts,
)

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
METRICS = {
    "samples.count": 16,
    "samples.retrieval_accuracy": 1.0,
    "samples.retrieval_accuracy_base": 0.0625,
    "samples.psnr_db": 21.93,
    "samples.psnr_db_base": 11.2,
    "samples.ssim": 0.8,
    "data.clips_train": 16,
    "vae.psnr_db": 26.0,
    "vae.psnr_db_min": 21.4,
}
MAY_LOAD = {"src", "href", "xlink:href", "poster", "data", "action", "srcset", "background"}


class Page(HTMLParser):
    """Tags, and the values of attributes that can load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: Any, attrs: Any):
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in MAY_LOAD]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture
def report(tmp_path: Path):
    video = tmp_path / "v.mp4"
    video.write_bytes(b"not really a video")
    shown = [ReportVideo("Training clip", video), ReportVideo("After training", video, 8.5, False, HOSTILE)]
    curve = [LossPoint(i, 1 / i, 1e-3) for i in range(1, 50)]
    return ReportData(
        experiment="demo",
        metrics=METRICS,
        timings={"train.steps_per_second": 5.0, "train.data_wait_fraction": 0.001},
        strips=[ReportRow(HOSTILE, HOSTILE, shown)],
        training=curve,
        validation=[LossPoint(10, 0.5)],
        data=DataFacts(
            {"train": 16},
            9,
            64,
            96,
            8.0,
            (7.5, 8.0),
            [(HOSTILE, HOSTILE)],
            [HOSTILE],
            [(HOSTILE, HOSTILE)],
            [(HOSTILE, HOSTILE)],
        ),
        stages=[StageFacts("train", "0123456789ab", 63.0, 1, 800.0), StageFacts("text", "0123456789ab", None, 0, None)],
        exports=[
            Exported("diffusers", HOSTILE, 1234.5, 0.0, HOSTILE, 2.3e-6),
            Exported("kohya", "k.safetensors", 0.25, 0.0, "none", None, HOSTILE),
        ],
        config_yaml=f"model:\n  name: {HOSTILE}  # {HOSTILE}\n  url: https://example.org/x  # default\n",
        run={"keys": {"train": HOSTILE}, "commit": None},
    )


def test_every_string_is_escaped(report: ReportData):
    found = Page(page.render(report))
    assert not {"script", "img", "iframe", "object", "link"} & set(found.tags)
    assert not found.handlers


def test_nothing_is_loaded_from_elsewhere(report: ReportData):
    html = page.render(report)
    assert [uri for uri in Page(html).loaded if not uri.startswith(("data:video/mp4;base64,", "#"))] == []
    style = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL)) + "".join(
        re.findall(r'style="([^"]*)"', html)
    )
    assert "@import" not in style
    assert re.findall(r"url\((?!#)", style + "".join(re.findall(r'="(url\([^"]*)"', html))) == []
    assert "default-src 'none'" in html


@pytest.mark.heavy
def test_the_page_says_what_was_found(report: ReportData):
    html = page.render(report)
    assert "After training, 16 of 16 samples are nearest to their own clip; before: 1 of 16." in html
    assert html.count("<video") == 2
    assert "autoplay loop muted" in html
    assert "7.5 to 8" in html
    assert "1 file rejected; 1 caption truncated" in html
    assert "1 min 03 s" in html
    weights = html.partition("<h2>Weights</h2>")[2].partition("</section>")[0]
    cells = re.findall(r'<td class="number(?: nobreak)?">(.*?)</td>', weights)
    assert cells == ["1,234 MB", "0", "2.3e-06", "0.25 MB", "0", "–"]


@pytest.mark.heavy
def test_gpus_have_columns_only_if_there_was_one(report: ReportData):
    assert "GPU busy" not in page.render(report)
    first, second = report.stages
    html = page.render(replace(report, stages=[replace(first, gpu_busy=0.934, peak_gpu_mib=40321.2), second]))
    cells = re.findall(
        r'<td class="number">(.*?)</td>', html.partition("Peak GPU memory</th>")[2].partition("</table>")[0]
    )
    assert cells == ["1 min 03 s", "1", "800 MiB", "93 %", "40321 MiB", "–", "–", "–", "–", "–"]


def test_a_page_of_prompts_without_clips(report: ReportData):
    bare = ReportData("p", {"samples.count": 2}, {}, [], [], [], DataFacts(), [], [], "", {})
    html = page.render(bare)
    assert "Samples of your own prompts" in html
    assert "Is it the training" not in html


def test_videos_beyond_the_budget_are_counted(report: ReportData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "MAX_VIDEO_BYTES", 40)
    many = replace(report, strips=report.strips * 5)
    html = page.render(many)
    assert html.count("<video") == 2
    assert "4 more captions were sampled" in html


def test_rows_only_for_what_was_measured():
    rows = {row.variant: row for row in summary_text.rows(METRICS)}
    assert list(rows) == ["tuned", "base"]
    assert rows["base"].hits == 1
    measured = {RETRIEVAL: 0.0625, PSNR: 11.2}
    assert rows["base"].values == [(metric, measured.get(metric)) for metric in ALL_METRICS]


@pytest.mark.parametrize(
    ("count", "accuracy", "base", "expected"),
    [
        (1, 1.0, None, "After training, 1 of 1 samples is nearest to its own clip."),
        (8, 0.75, 0.125, "After training, 6 of 8 samples are nearest to their own clip; before: 1 of 8."),
    ],
)
def test_headline(count: int, accuracy: float, base: float | None, expected: str):
    metrics = {"samples.count": count, "samples.retrieval_accuracy": accuracy}
    if base is not None:
        metrics["samples.retrieval_accuracy_base"] = base
    assert summary_text.headline(metrics) == expected


def test_smoothing_keeps_constants_and_lines():
    assert plots.smoothed([2.0] * 7, 4) == [2.0] * 7
    line = [float(i) for i in range(20)]
    assert plots.smoothed(line, 5)[:-2] == pytest.approx(line[:-2])
    assert plots.smoothed(line, 5)[-1] == 18
    assert plots.smoothed([], 5) == []


def test_thinning_keeps_both_ends():
    assert plots.subsampled(range(10), 4) == [0, 3, 6, 9]
    assert plots.subsampled(range(3), 4) == [0, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.2, "12 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float | int, text: str):
    assert plots.duration(seconds) == text


def test_plots_leave_matplotlib_as_it_was(report: ReportData):
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg = plots.loss_plot(report.training, report.validation)
    assert dict(matplotlib.rcParams) == before
    assert svg.startswith("<svg role=")
    assert "var(--accent)" in svg
    assert plots.loss_plot([], []) == ""


def test_the_report_does_not_import_torch():
    code = "import sys, cogtune.stages.report, cogtune.data.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
