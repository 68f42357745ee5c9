"""Shards: round trip, flushing, union, concurrent writers, kills, other formats."""

import json
import multiprocessing
import os
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogtune.data import store
from cogtune.data.shards import FORMAT
from cogtune.data.store import INDEX, ShardReader, ShardWriter, write_shard
from cogtune.errors import UserError
from cogtune.runtime import slurm


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_round_trip_keeps_bits_shapes_and_dtypes(tmp_path: Path) -> None:
    rows = {
        "a": {"moments": torch.randn(2, 3, 4).bfloat16(), "scalar": torch.tensor(3)},
        "b": {"thumbnail": torch.arange(12, dtype=torch.uint8).view(2, 2, 3)},
        "c": {},
    }
    with ShardWriter(tmp_path) as writer:
        for name, tensors in rows.items():
            writer.add(name, tensors, {"name": name, "list": [1, 2.5, None]})
    reader = ShardReader(tmp_path)
    assert reader.ids() == set(rows)
    assert len(reader) == 3
    assert "a" in reader
    assert "d" not in reader
    for name, tensors in rows.items():
        found = reader.tensors(name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) and found[key].dtype == tensors[key].dtype for key in tensors)
        assert reader.meta(name) == {"name": name, "list": [1, 2.5, None]}
    assert len(shards(tmp_path)) == 1


def test_views_of_one_batch_are_stored_alone(tmp_path: Path) -> None:
    batch = torch.randn(4, 1000)
    with ShardWriter(tmp_path) as writer:
        for index in range(4):
            writer.add(str(index), {"x": batch[index]})
    assert torch.equal(ShardReader(tmp_path).tensors("2")["x"], batch[2])
    assert shards(tmp_path)[0].stat().st_size < 5 * batch.nbytes / 4


@pytest.mark.parametrize(("megabytes", "count"), [(1000, 1), (0.004, 5), (0.008, 3)])
def test_flushes_by_size(tmp_path: Path, megabytes: float, count: int) -> None:
    with ShardWriter(tmp_path, flush_megabytes=megabytes) as writer:
        for index in range(5):
            writer.add(str(index), {"x": torch.zeros(1000)})
    assert len(shards(tmp_path)) == count
    assert len(ShardReader(tmp_path)) == 5


def test_flushes_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    with ShardWriter(tmp_path, flush_seconds=30) as writer:
        for index in range(6):
            now[0] += 11
            writer.add(str(index), {"x": torch.zeros(1)})
    assert len(shards(tmp_path)) == 2


def test_an_error_keeps_what_is_complete(tmp_path: Path) -> None:
    def work() -> None:
        with ShardWriter(tmp_path) as writer:
            writer.add("a", {"x": torch.zeros(1)})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert ShardReader(tmp_path).ids() == {"a"}


@pytest.mark.parametrize("name", ["a", "b/c"])
def test_refused_names(tmp_path: Path, name: str) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("a", {})
        with pytest.raises(ValueError, match="twice"):
            writer.add(name, {})


def test_the_index_follows_the_set_of_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ShardWriter(tmp_path) as writer:
            writer.add(name, {"x": torch.zeros(1)})
        assert name in ShardReader(tmp_path)
    stamp = (tmp_path / INDEX).stat().st_mtime_ns
    ShardReader(tmp_path)
    assert (tmp_path / INDEX).stat().st_mtime_ns == stamp
    (tmp_path / INDEX).write_text("garbage")
    assert ShardReader(tmp_path).ids() == {"a", "b"}
    gone = next(
        path for path in shards(tmp_path) if "a" in json.loads((tmp_path / INDEX).read_text())["shards"][path.name]
    )
    gone.unlink()
    assert ShardReader(tmp_path).ids() == {"b"}


def test_only_the_clock_of_the_file_system_says_what_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a node that is hours ahead must not remove what another node writes."""
    monkeypatch.setattr(time, "time", lambda: 4e9)
    for name in (".live.tmp", ".abandoned.tmp"):
        (tmp_path / name).touch()
    long_ago = tmp_path.stat().st_mtime - 7200
    os.utime(tmp_path / ".abandoned.tmp", (long_ago, long_ago))
    ShardWriter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".live.tmp"]


def test_an_indexed_shard_is_not_opened_to_list_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("a", {"x": torch.zeros(1)})
    ShardReader(tmp_path)
    monkeypatch.setattr(store, "Shard", lambda path: pytest.fail("opened"))
    assert ShardReader(tmp_path).ids() == {"a"}


def test_no_folder_has_no_rows(tmp_path: Path) -> None:
    reader = ShardReader(tmp_path / "none")
    assert reader.ids() == set()
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="no row"):
        reader.tensors("a")


def test_a_job_of_a_cluster_waits_for_rows_that_its_node_does_not_see_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may show what another node wrote after some time. Here it shows it after half a second."""
    monkeypatch.setattr(store, "_LIST_SECONDS", 0.1)
    with ShardWriter(tmp_path / "elsewhere") as writer:
        writer.add("a", {"x": torch.zeros(1)})
    (shard,) = shards(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="no row a"):
        ShardReader(tmp_path / "here").require(["a"])
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    reader = ShardReader(tmp_path / "here")
    showing = threading.Timer(0.5, lambda: shard.rename(tmp_path / "here" / shard.name))
    showing.start()
    reader.require(["a"])
    showing.join()
    assert reader.tensor("a", "x", 1).tolist() == [0.0]
    monkeypatch.setattr(slurm, "_VISIBLE_SECONDS", 0.3)
    with pytest.raises(UserError, match="no row b"):
        reader.require(["a", "b"])


def test_many_shards_are_not_all_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_OPEN_ROWS", 3)
    with ShardWriter(tmp_path, flush_megabytes=0) as writer:
        for index in range(8):
            writer.add(str(index), {"x": torch.tensor([index])})
    reader = ShardReader(tmp_path)
    for _ in range(2):
        assert [int(reader.tensors(str(index))["x"]) for index in range(8)] == list(range(8))
    assert len(reader._open) == 3


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_file({"a/x": torch.zeros(1)}, tmp_path / "old.safetensors", {"format": "cogtune-shard-9", "meta": "{}"})
    with pytest.raises(UserError, match=f"'cogtune-shard-9', this version reads '{FORMAT}'"):
        ShardReader(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("a", {"x": torch.zeros(1000)})
    (path,) = shards(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=path.name):
        ShardReader(tmp_path)


def test_old_temporaries_are_swept_and_young_ones_kept(tmp_path: Path) -> None:
    old, young = tmp_path / ".old.tmp", tmp_path / ".young.tmp"
    for path in (old, young):
        path.write_text("half a shard")
    os.utime(old, (0, 0))
    ShardWriter(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)


def write(folder: Path, prefix: str, count: int, told: Connection) -> None:
    have = ShardReader(folder)
    with ShardWriter(folder, flush_megabytes=0.02) as writer:
        for index in range(count):
            if f"{prefix}{index}" not in have:
                writer.add(f"{prefix}{index}", {"x": torch.full((1000,), float(index))}, {"made": index})
                told.send(index)


def test_readers_beside_two_writers_and_a_kill(tmp_path: Path) -> None:
    """Readers always see whole rows, and what was seen once stays; a kill costs less than one flush."""
    context = multiprocessing.get_context("fork")
    ears, mouths = zip(*(context.Pipe(duplex=False) for _ in range(2)), strict=True)
    steady = context.Process(target=write, args=(tmp_path, "s", 150, mouths[0]))
    doomed = context.Process(target=write, args=(tmp_path, "d", 10**6, mouths[1]))
    for process in (steady, doomed):
        process.start()
    seen: set[str] = set()
    while len(seen) < 60:
        reader = ShardReader(tmp_path)
        assert seen <= reader.ids()
        seen = reader.ids()
        for item in sorted(seen)[-3:]:
            assert bool((reader.tensors(item)["x"] == reader.meta(item)["made"]).all())
        ears[1].recv()
    doomed.kill()
    doomed.join()
    mouths[1].close()
    last = -1
    with suppress(EOFError):
        while True:
            last = ears[1].recv()
    steady.join()
    assert steady.exitcode == 0
    reader = ShardReader(tmp_path)
    assert sum(item.startswith("s") for item in reader.ids()) == 150
    assert sum(item.startswith("d") for item in reader.ids()) > last - 5


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_shard_has_the_mode_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_shard(tmp_path, {"row/x": torch.zeros(2)}, {"row": {}}, {})
    finally:
        os.umask(before)
    (shard,) = tmp_path.glob("*.safetensors")
    assert shard.stat().st_mode & 0o777 == 0o666 & ~umask
