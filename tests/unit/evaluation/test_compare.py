"""The report of a sweep: what is best, what is escaped, what is in the table for other programs."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from cogtune.evaluation.report.compare import Member, as_csv, render
from cogtune.evaluation.report.report_data import LossPoint, ReportRow, ReportVideo


def member(name: str, value: Any, psnr: Any, tmp_path: Path, caption: Any = "a <b>wave</b>"):
    video = tmp_path / f"{name}.mp4"
    video.write_bytes(b"video of " + name.encode())
    return Member(
        name=name,
        point={"args.lr": value},
        metrics={"samples.psnr_db": psnr, "train.loss_last": 1 / psnr},
        timings={"seconds.train": 2.0},
        training=[LossPoint(step, 1.0 / step, 1e-3) for step in range(1, 30)],
        validation=[LossPoint(20, 0.5)] if psnr > 10 else [],
        strips=[
            ReportRow(
                caption, "wave", [ReportVideo("Training clip", video), ReportVideo("After training", video, psnr, True)]
            )
        ],
    )


@pytest.mark.heavy
def test_page(tmp_path: Path):
    members = [member("s-lr_1", 1e-4, 10.0, tmp_path), member("s-lr_2", 1e-2, 20.0, tmp_path)]
    page = render("s<script>", members)
    assert page.count("<script") == 1  # the page's own
    assert "a &lt;b&gt;wave" in page
    assert "Of 2 runs, lr 0.01 comes closest to the clips: 20.0 dB." in page
    assert page.count('class="number best"') == 2  # PSNR and loss; equal or single values are no best
    assert page.count("data:video/mp4") == 3  # the clip once, then every member
    assert 'href="s-lr_2/report.html"' in page
    assert "<svg" in page


@pytest.mark.heavy
def test_words_in_place_of_numbers_and_nothing_measured(tmp_path: Path):
    bare = [
        Member(f"s-{word}", {"args.lr_decay_style": word}, {}, {}, [LossPoint(1, 0.0)], [], []) for word in ("a", "b")
    ]
    page = render("s", bare)
    assert "2 runs compared." in page
    assert "Samples of the same captions" not in page


def test_csv_has_every_figure_of_every_member(tmp_path: Path):
    members = [member("s-1", "a,b", 10.0, tmp_path), member("s-2", 2, 20.0, tmp_path)]
    rows = list(csv.DictReader(io.StringIO(as_csv(members))))
    assert [row["experiment"] for row in rows] == ["s-1", "s-2"]
    assert rows[0]["args.lr"] == "a,b"
    assert rows[0]["validation.loss_last"] == ""
    assert rows[1]["validation.loss_last"] == "0.5"
    assert float(rows[1]["samples.psnr_db"]) == 20.0
