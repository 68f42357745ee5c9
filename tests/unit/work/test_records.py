"""Records, receipts and runs: what is written reads back equal; files of earlier versions are read; damage is ignored."""

import json
from pathlib import Path
from typing import Any

import pytest

from cogtune.errors import UserError
from cogtune.runtime.saved import write_sealed
from cogtune.work.records import Receipt, Record, read_receipt, read_record
from cogtune.work.runs import known_parts, read_part, run_path, write_run
from cogtune.work.slices import Slice
from cogtune.work.volatile import JobMachine, ReportRun, SweepRun, UpstreamJob, Volatile

FULL = Volatile(
    values={"args.log_interval": 5, "args.train_data": ["/data"], "model.a.b": {"c": None}},
    files={"args.load": "/weights.pt"},
    jobs={"scan": UpstreamJob("scan", "aa", "aa"), "load": UpstreamJob("train", "bb", "bb", "other-0123.json")},
    sources={"args.load": [["/weights.pt", "sha256:00", "1 2 3"]]},
    plugins={"mine": "/here"},
    machine=JobMachine(2),
    batch_memo="0123456789ab",
    report=ReportRun("demo", "args: {}\n"),
    sweep=SweepRun("lr"),
)
RUN_OF_05C298F: dict[str, Any] = {
    "values": {"args.flush_seconds": 60.0},
    "files": {},
    "jobs": {"preprocess": {"stage": "preprocess", "key": "aa", "items": "bb"}},
    "machine": {"ranks": 2},
    "sources": {"model.first_stage_config.params.ckpt_path": [["/vae.pt", "sha256:00", "1 2 3 4"]]},
    "report": {"experiment": "tiny", "config_yaml": "args: {}", "files": {"a.b": "/vae.pt"}},
}


@pytest.mark.parametrize("part", [Volatile(), FULL])
def test_a_run_reads_back_equal(tmp_path: Path, part: Volatile) -> None:
    path = write_run(tmp_path, "demo", {"aa": part})
    assert read_part(path, "aa") == part
    assert "null" not in path.read_text().replace('"c": null', "")
    ((_, known),) = known_parts(tmp_path)
    assert (known.values, known.files, known.jobs) == (part.values, part.files, part.jobs)


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Volatile, "to_json", lambda self: RUN_OF_05C298F)  # pyright: ignore[reportUnknownLambdaType]
        path = write_run(tmp_path, "tiny", {"aa": Volatile()})
    part = read_part(path, "aa")
    assert part.jobs == {"preprocess": UpstreamJob("preprocess", "aa", "bb")}
    assert (part.machine.ranks, part.report, part.sweep) == (2, ReportRun("tiny", "args: {}"), None)
    assert Slice("latents", {"values": {"args": {"lr": 1.0}}}, part).config() == {
        "args": {"lr": 1.0, "flush_seconds": 60.0}
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"jobs": {"scan": {"stage": "scan", "key": "aa"}}}, "jobs.scan: missing key 'items'"),
        ({"jobs": []}, "jobs: expected a JSON object"),
        ({"machine": {"ranks": "2"}}, "machine: ranks: expected an integer"),
        ({"report": {"experiment": "tiny"}}, "report: missing key 'config_yaml'"),
        ({"sources": {"a": ["/x"]}}, "sources.a: expected a list of strings"),
    ],
)
def test_a_run_of_another_form_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Volatile, "to_json", lambda self: RUN_OF_05C298F | change)  # pyright: ignore[reportUnknownLambdaType]
        path = run_path(tmp_path, "tiny", {"aa": Volatile()})
        write_run(tmp_path, "tiny", {"aa": Volatile()})
    with pytest.raises(UserError, match="run snakemake again") as caught:
        read_part(path, "aa")
    assert str(caught.value).startswith(f"{path}: job aa: {says}")


RECORD = Record(1, 2.5, "text", "aa", 700.0, 80.5, 3, "H100", 2, Volatile({"a": 1}, {}, FULL.jobs))


@pytest.mark.parametrize("record", [Record(2, 3.0), RECORD])
def test_a_record_reads_back_equal(tmp_path: Path, record: Record) -> None:
    record.write(tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == record


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    old = {"stage": "scan", "key": "aa", "runs": 2, "seconds": 5, "peak_memory_mib": 1.0}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(old))
    assert read_record(path) == Record(2, 5, "scan", "aa", 1.0)
    write_sealed(path, old | {"run": RUN_OF_05C298F, "made": 4, "device": "CPU", "devices": 1})
    record = read_record(path)
    assert record is not None
    assert record.run is not None
    assert (record.made, record.run.values) == (4, RUN_OF_05C298F["values"])


@pytest.mark.parametrize(
    "change",
    [{"runs": None}, {"runs": -1}, {"seconds": "5"}, {"seconds": -0.5}, {"made": "4"}, {"device": 3}, {"devices": []}],
)
def test_a_damaged_record_is_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, {"runs": 2, "seconds": 5.0, "made": 4, "device": "CPU", "devices": 1} | change)
    assert read_record(path) is None
    assert read_record(tmp_path / "missing.json") is None


@pytest.mark.parametrize(
    ("text", "receipt"),
    [
        ('{"stage": "scan", "key": "aa", "made": 2, "reused": 1, "rejected": 0, "seconds": 1.5}', Receipt(2, 1, 0)),
        ('{"made": 1, "reused": 0, "steps": 6, "loss_first": 1.0}', Receipt(1, 0, None, 6)),
        ('{"made": true, "reused": "1"}', Receipt()),
        ("[]", Receipt()),
        ("", Receipt()),
    ],
)
def test_receipts(tmp_path: Path, text: str, receipt: Receipt) -> None:
    (tmp_path / "scan-aa.json").write_text(text)
    assert read_receipt(tmp_path / "scan-aa.json") == receipt
    assert read_receipt(tmp_path / "missing.json") is None
