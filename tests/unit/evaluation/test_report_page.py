import base64
import hashlib
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
from cogtune.evaluation.report import page, plots, summary_text, validation
from cogtune.evaluation.report.gather import folders_of
from cogtune.evaluation.report.report_data import (
    ClipFacts,
    DataFacts,
    Exported,
    LossPoint,
    ReportData,
    ReportRow,
    ReportVideo,
    StageFacts,
)
from cogtune.evaluation.report.use import Base, Clip, use
from cogtune.work.training_log import Row, ValidationRow
from cogtune.work.volatile import DataFolders

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
    html = page.render(report)
    found = Page(html)
    assert not {"img", "iframe", "object", "link"} & set(found.tags)
    assert not found.handlers
    script = (Path(page.__file__).with_name("report.js")).read_text()
    assert re.findall("<script.*?</script>", html, re.DOTALL) == [f"<script>{script}</script>"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html


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
    assert "autoplay" not in html  # the script plays them, unless the reader wants less motion
    assert "7.5 to 8" in html
    assert "1 file rejected; 1 caption truncated" in html
    assert "1 min 03 s" in html
    weights = html.partition("<h2>Weights</h2>")[2].partition("</section>")[0]
    assert re.findall(r'class="number nobreak">(.*?)</td>', weights) == ["1,234 MB", "0.25 MB"]
    assert re.findall(r'title="largest difference (.*?)"', weights) == ["0", "2.3e-06", "0"]
    assert "Largest difference of the output: 0 by cogtune, 2.3e-06 by" in weights


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
    assert "<h2>Samples</h2>" in html
    assert "its own clip" not in html


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


def falling(count: int = 100) -> list[LossPoint]:
    return [LossPoint(step, 1 / step, 1e-3) for step in range(1, count + 1)]


@pytest.mark.parametrize(
    ("validation", "says"),
    [
        ([0.9, 0.7, 0.71, 0.77], "lowest at step 50 (0.700) and rose to 0.770 by step 100"),
        ([0.9, 0.7, 0.705, 0.71], ""),  # less than the noise
        ([0.9, 0.8, 0.75, 0.7], ""),
        ([0.7, 0.9], ""),  # two points are no curve
    ],
)
def test_a_validation_loss_that_rises_is_said(validation: list[float], says: str):
    points = [LossPoint(25 * (i + 1), loss) for i, loss in enumerate(validation)]
    text = summary_text.overfitting(falling(), points)
    assert (says in text) if says else text == ""


def test_a_validation_loss_that_rises_with_the_training_loss_is_not_overfitting():
    rising = [LossPoint(step, step / 10, 1e-3) for step in range(1, 101)]
    assert summary_text.overfitting(rising, [LossPoint(step, step / 10) for step in (25, 50, 100)]) == ""


def validation_log(losses: list[float], trained: list[float]) -> list[Row]:
    """Two sets, the second 1 higher, and training clips; every 10 steps from 0."""
    rows: list[Row] = []
    for i, (loss, own) in enumerate(zip(losses, trained, strict=True)):
        bands = [loss, None, loss, loss]
        rows.append(ValidationRow(10 * i, loss, set="near", weights="raw", bands=bands, draws="a"))
        rows.append(ValidationRow(10 * i, loss + 1, set="far", weights="raw", bands=bands, draws="b"))
        rows.append(ValidationRow(10 * i, own, weights="raw", trained_on=True, bands=bands, draws="c"))
        rows.append(ValidationRow(10 * i, loss + 2, set="near", weights="ema", bands=bands, draws="a"))
    return rows


@pytest.mark.parametrize(
    ("losses", "trained", "says"),
    [
        (
            [0.9, 0.7, 0.71, 0.77],
            [0.9, 0.8, 0.7, 0.6],
            "loss of near was lowest at step 10 (0.700) and rose to 0.770 by",
        ),
        ([0.9, 0.7, 0.705, 0.71], [0.9, 0.8, 0.7, 0.6], ""),
        ([0.9, 0.7, 0.71, 0.77], [0.9, 0.6, 0.7, 0.8], ""),
        ([0.7, 0.9], [0.7, 0.6], ""),
    ],
)
def test_overfitting_is_seen_in_the_same_draws(losses: list[float], trained: list[float], says: str):
    text = validation.overfitting(validation.validation_curves(validation_log(losses, trained)))
    assert (says in text) if says else text == ""


def test_validations_are_curves_and_figures(report: ReportData):
    curves = validation.validation_curves(validation_log([0.9, 0.7, 0.75], [0.9, 0.8, 0.7]))
    assert [curve.label for curve in curves] == ["near", "far", "training clips", "near, average"]
    html = page.render(replace(report, curves=curves, best="The weights of step 10 are kept."))
    assert "The weights of step 10 are kept." in html
    assert "0.700 (10)" in html
    assert "+0.050" in html
    assert "0.750 – 0.750 0.750" in html
    assert "Validation losses over training steps" in html
    assert validation.validation_curves([ValidationRow(5, 0.5)]) == [], "of an earlier version"


@pytest.mark.parametrize("count", [1, 2, 19, 40, 1000])
def test_the_loss_in_words_is_the_end_of_the_thick_line(count: int):
    losses = [point.loss for point in falling(count)]
    span = plots.mean_span(count)
    line = plots.window_means(losses, span)
    assert line[0] == pytest.approx(sum(losses[:span]) / span)
    assert line[-1] == pytest.approx(sum(losses[-span:]) / span)
    assert f"went from {line[0]:.3f} to {line[-1]:.3f}" in summary_text.training(falling(count), {})


def test_inherited_validation_clips_are_said():
    text = summary_text.data_sources(
        folders_of({"train_data": DataFolders(["mine"], "command line"), "valid_data": DataFolders(["d"], "a.yaml:9")})
    )
    assert text[0] == "Training clips: mine (args.train_data, set by command line)."
    assert text[1].startswith("Validation clips: d (args.valid_data, set by a.yaml:9). args.valid_data was not set")
    same = folders_of({"train_data": DataFolders(["m"], "a.yaml:8"), "valid_data": DataFolders(["d"], "a.yaml:9")})
    assert [one.inherited for one in same] == [False, False]


def test_what_was_done_to_each_clip_is_listed_with_the_most_changed_first(report: ReportData):
    plain = [ClipFacts(f"plain{i}", "train", (96, 64), 1.0, 1.0) for i in range(page.MAX_CLIPS)]
    changed = [ClipFacts("cut", "valid", (272, 640), 0.3, 0.64), ClipFacts("small", "train", (48, 32), 2.0, 1.0, 3)]
    assert report.data is not None
    html = page.render(replace(report, data=replace(report.data, each=[*plain, *changed])))
    rows = re.findall(r'<th scope="row" class="mono">(.*?)</th>', html)
    assert rows[:2] == ["cut", "small"]
    assert len(rows) == page.MAX_CLIPS
    assert "2.00 (enlarged)" in html
    assert "64 %" in html
    assert "2 more clips are in clips.csv" in html


EXPORTED = Exported("diffusers_lora", "pytorch_lora_weights.safetensors", 1.0, 0.0, "diffusers", 0.0)
CLIP = Clip('a "fox"\n', 64, 96, 9, 8.0, 25, 6.0, True, "float32")


def test_use_it_names_the_files_and_the_folders():
    exports = [EXPORTED, replace(EXPORTED, format="comfyui_lora", path="comfyui_lora.safetensors")]
    made = use("mine", "results/mine/export", Path("/p"), exports, Base("zai-org/CogVideoX-2b"), CLIP)
    assert 'pipe.load_lora_weights("results/mine/export", weight_name="pytorch_lora_weights' in made.diffusers
    assert '"a \\"fox\\"\\n"' in made.diffusers
    assert [(row.file, row.folder) for row in made.comfyui] == [
        ("results/mine/export/comfyui_lora.safetensors", "ComfyUI/models/loras/mine.safetensors")
    ]
    compile(made.diffusers, "page", "exec")


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("transformer", [None, "results/demo/export/transformer"])
@pytest.mark.parametrize("format", ["diffusers", "diffusers_lora", "sat"])
def test_the_lines_for_diffusers_are_python(image: bool, transformer: str | None, format: str):
    exports = [replace(EXPORTED, format=format)]
    made = use("m", "e", Path("/"), exports, Base("base-pipeline", transformer), replace(CLIP, image=image))
    compile(made.diffusers, "page", "exec")
    assert bool(made.diffusers) == (format != "sat")
    assert ("Replace base-pipeline" in " ".join(made.notes)) == (format != "sat")
