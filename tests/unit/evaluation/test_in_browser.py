"""The pages in a headless Chromium: layout, keyboard, motion, and accessibility by axe-core at WCAG AA."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from cogtune.evaluation.report import compare, page, prompts_page, training_page
from cogtune.evaluation.report.report_data import (
    ClipFacts,
    Copied,
    DataFacts,
    Exported,
    LossPoint,
    ReportData,
    ReportRow,
    ReportVideo,
    StageFacts,
    Use,
)
from cogtune.work.volatile import PromptRow

pytestmark = pytest.mark.heavy
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WCAG_AA = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
LONG = "a_very_long_name_without_any_place_to_break_it_" * 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a training, one of prompts only, a sweep, one of `cogtune sample`, and a training that runs."""
    folder = tmp_path_factory.mktemp("pages")
    video = folder / "v.mp4"
    frames = np.random.default_rng(1).integers(0, 255, (9, 32, 48, 3), dtype=np.uint8)
    iio.imwrite(video, frames, fps=8, codec="libx264", macro_block_size=1)
    curve = [LossPoint(step, 1 / step, 1e-3) for step in range(1, 200)]
    validation = [LossPoint(50, 0.5), LossPoint(100, 0.6), LossPoint(150, 0.7)]
    labels = ("Training clip", "Before training", "After training")
    videos = [ReportVideo(label, video, 12.0, i > 1 if i else None, LONG) for i, label in enumerate(labels)]
    strips = [ReportRow(f"caption {i} {LONG}", LONG, videos) for i in range(4)]
    metrics = {"samples.count": 4, "data.clips_train": 4, "samples.psnr_db": 20.0, "samples.ssim": 0.5}
    metrics |= {f"samples.retrieval_accuracy{end}": 0.5 for end in ("", "_base", "_shuffled")}
    report = ReportData(
        LONG, metrics, {}, strips, curve, validation,
        DataFacts({"train": 4}, 9, 32, 48, 8.0, rejects=[(LONG, LONG)], each=[ClipFacts(LONG, "train", (96, 64), 2.0, 0.7)]),
        [StageFacts(name, "0123456789ab", 63.0, 1, 800.0) for name in ("scan", "train", "evaluate")],
        [Exported("diffusers_lora", f"{LONG}.safetensors", 1.0, 0.0, "diffusers 0.42", 1e-6)],
        f"model:\n  name: {LONG}  # {LONG}\n", {"keys": {"train": LONG}},
        setup=[("Base model", LONG), ("Steps", "1,000")],
        use=Use("results/x/export", "/home/x", ["A note."], f"pipe = {LONG}\n", [Copied("nodes", LONG, LONG)]),
        command=f"snakemake --cores all experiment_{LONG}",
    )  # fmt: skip
    samples = [ReportRow(f"prompt {i}", f"prompt-{i}", [ReportVideo("Sample", video)]) for i in range(3)]
    prompts = ReportData("p", {"samples.count": 3}, {}, samples, [], [], None, [], [], "", {})
    member = compare.Member("s-1", {"args.lr": 1e-4}, metrics, {}, curve, validation, strips)
    other = compare.Member("s-2", {"args.lr": 1e-3}, metrics | {"samples.psnr_db": 21.0}, {}, curve, [], strips)
    state = training_page.State("x", 199, 300, True, [("Log", LONG)])
    rows = [
        PromptRow(f"{seed}-{strength}", caption, "c", seed, strength)
        for caption in (LONG, "a fox")
        for seed in (1, 2)
        for strength in (0.0, 1.0)
    ]
    own = prompts_page.PromptsPage("x", None, "8 videos", "9 frames", rows, {row.id: video.name for row in rows}, {})
    for name, html in {
        "own_prompts": prompts_page.render(own, folder),
        "report": page.render(report),
        "prompts": page.render(prompts),
        "sweep": compare.render("s", [member, other]),
        "training": training_page.render(state, curve, validation),
    }.items():
        (folder / f"{name}.html").write_text(html)
    return folder


class Tab:
    """One page in the browser, and what its console said."""

    def __init__(
        self, browser: Any, path: Path, width: int, scheme: str = "light", motion: str = "no-preference"
    ) -> None:
        self.tab = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion=motion
        )
        self.said: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.tab

    def __exit__(self, *exception: Any) -> None:
        self.tab.close()
        assert self.said == []


def wait_for(tab: Any, condition: str) -> None:
    """Playwright's wait_for_function evaluates in the page, which the page's policy forbids."""
    for _ in range(200):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(condition)


NAMES = ("report", "prompts", "sweep", "own_prompts", "training")
_SMALLEST_TEXT = """[...document.querySelectorAll('svg text')].filter((text) => text.getClientRects().length).map((text) => {
  const matrix = text.getScreenCTM(); return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b);
}).reduce((a, b) => Math.min(a, b), 99)"""
_SMALLEST_WORDS = """[...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest('svg')
  && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .reduce((least, one) => Math.min(least, parseFloat(getComputedStyle(one).fontSize)), 99)"""
_UNEVEN = """[...document.querySelectorAll('.strip .videos')].filter((videos) => {
  const rows = {};
  for (const video of videos.children) { const {top} = video.getBoundingClientRect(); rows[top] = (rows[top] ?? 0) + 1; }
  return videos.children.length <= 4 && new Set(Object.values(rows)).size > 1;
}).length"""
"""Samples whose videos wrap to rows of different lengths, such as 2 + 1."""
_TALL_CAPTIONS = """[...document.querySelectorAll('.caption')].filter((one) =>
  one.clientHeight > 3.2 * parseFloat(getComputedStyle(one).lineHeight)).length"""
_OPEN_ALL = "document.querySelectorAll('details').forEach((one) => one.open = true)"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [360, 400, 1280])
def test_nothing_overflows_and_charts_are_readable(browser: Any, pages: Path, name: str, width: int) -> None:
    with Tab(browser, pages / f"{name}.html", width) as tab:
        assert tab.evaluate(_SMALLEST_TEXT) >= 11
        assert tab.evaluate(_UNEVEN) == 0
        assert tab.evaluate(_TALL_CAPTIONS) == 0
        tab.evaluate(_OPEN_ALL)
        assert tab.evaluate(_SMALLEST_WORDS) >= 11
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_axe_finds_nothing(browser: Any, pages: Path, name: str, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Tab(browser, pages / f"{name}.html", width, scheme) as tab:
        tab.evaluate(_OPEN_ALL)
        violations = Axe().run(tab, options=WCAG_AA).response["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in violations] == []


_PLAYING = "[...document.querySelectorAll('.video video')].filter((video) => !video.paused).length"


def test_videos_play_unless_less_motion_is_wanted(browser: Any, pages: Path) -> None:
    with Tab(browser, pages / "prompts.html", 1280) as tab:
        tab.locator(".strips").scroll_into_view_if_needed()
        wait_for(tab, f"{_PLAYING} > 0")
        tab.get_by_role("button", name="Pause videos").press("Enter")
        assert tab.evaluate(_PLAYING) == 0
    with Tab(browser, pages / "prompts.html", 1280, motion="reduce") as tab:
        tab.locator(".strips").scroll_into_view_if_needed()
        tab.wait_for_timeout(300)
        assert tab.evaluate(_PLAYING) == 0
        assert tab.evaluate("document.querySelector('[autoplay]')") is None
        tab.get_by_role("button", name="Play videos").press("Enter")
        wait_for(tab, f"{_PLAYING} > 0")


def test_only_videos_that_are_drawn_larger_have_sharp_pixels(browser: Any, pages: Path) -> None:
    with Tab(browser, pages / "prompts.html", 1280) as tab:
        wait_for(tab, "document.querySelectorAll('.sharp').length === 3")  # 48 pixels in 500
        tab.add_style_tag(content=".video { width: 40px !important; }")
        tab.evaluate("document.querySelectorAll('.video video').forEach((video) => video.load())")
        wait_for(tab, "document.querySelectorAll('.sharp').length === 0")


def test_videos_are_enlarged_and_compared_by_keyboard(browser: Any, pages: Path) -> None:
    with Tab(browser, pages / "report.html", 1280) as tab:
        button = tab.get_by_role("button", name="Enlarge: Before training").first
        button.focus()
        button.press("Enter")
        viewed = tab.locator(".viewed")
        assert "Before training" in viewed.text_content()
        tab.keyboard.press("Tab")
        tab.locator(".viewer .next").press("ArrowRight")
        assert "After training" in viewed.text_content()
        assert "(3 of 3)" in viewed.text_content()
        tab.keyboard.press("Escape")
        assert not tab.locator(".viewer").is_visible()
        assert button.evaluate("(one) => one === document.activeElement")


_CONTROLS = """[...document.querySelectorAll('button, summary, a[href], [tabindex="0"]')]
  .filter((one) => one.checkVisibility())"""


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_reached_by_tab(browser: Any, pages: Path, name: str) -> None:
    with Tab(browser, pages / f"{name}.html", 1280) as tab:
        count = len(tab.evaluate(_CONTROLS))
        assert count
        for _ in range(count + 20):  # the browser adds what scrolls
            tab.keyboard.press("Tab")
            tab.evaluate("document.activeElement.dataset.reached = true")
        assert tab.evaluate(f"{_CONTROLS}.filter((one) => !one.dataset.reached).map((one) => one.outerHTML)") == []
