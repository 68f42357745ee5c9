"""Locks with real processes: who waits, who takes over, and that two never hold one lock."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogtune.errors import UserError
from cogtune.runtime import locks, owners
from cogtune.runtime.atomic import write_json
from cogtune.runtime.locks import HeldError, Timing, hold_lock
from tests import people
from tests.workflow.project import REPO, environment

pytestmark = pytest.mark.heavy

_HOLD = """
    import sys, time
    from pathlib import Path
    from cogtune.runtime.locks import Timing, hold_lock
    with hold_lock(Path(sys.argv[1]), Timing(heartbeat=0.1, stale=0.5, say=0.3)):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
"""
_COUNT = """
    import sys
    from pathlib import Path
    from cogtune.runtime.locks import hold_lock
    counter = Path(sys.argv[2])
    for _ in range(int(sys.argv[3])):
        with hold_lock(Path(sys.argv[1])):
            counter.write_text(str(int(counter.read_text()) + 1))
"""


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cogtune")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    process = start(_HOLD, path, seconds)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_free_lock_and_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        with hold_lock(tmp_path / "key.lock"):
            pass
    assert caplog.text == ""
    assert len(list((tmp_path / "key.lock").iterdir())) == 2


def test_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold_lock(tmp_path / "key.lock"):
        raise RuntimeError
    with hold_lock(tmp_path / "key.lock"):
        pass


def test_waits_for_a_live_owner_and_says_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    owner = holder(tmp_path / "latents-abc.lock", 1.0)
    started = time.monotonic()
    with hold_lock(tmp_path / "latents-abc.lock", Timing(say=0.3)):
        waited = time.monotonic() - started
        assert owner.wait(5) == 0
    said = [line for line in caplog.messages if f"process {owner.pid} on" in line]
    assert waited > 0.5
    assert 1 <= len(said) <= waited / 0.3 + 1
    assert all("latents-abc" in line for line in said)


@pytest.mark.parametrize("reap", [True, False], ids=["gone", "zombie"])
def test_takes_over_from_a_killed_owner(tmp_path: Path, caplog: pytest.LogCaptureFixture, reap: bool) -> None:
    owner = holder(tmp_path / "key.lock", 60)
    owner.send_signal(signal.SIGKILL)
    if reap:
        owner.wait()
    started = time.monotonic()
    with hold_lock(tmp_path / "key.lock"):
        assert time.monotonic() - started < 2
    assert "dead" in caplog.text
    owner.wait()


def test_a_reused_pid_is_not_the_owner(tmp_path: Path) -> None:
    other = owners.this_process() | {"start": "1"}
    write_json(tmp_path / "key.lock/1.json", other)
    with hold_lock(tmp_path / "key.lock"):
        pass


def test_only_one_of_several_waiters_takes_over_at_a_time(tmp_path: Path) -> None:
    """Waiters add to a number without any other protection; owners are killed in between. A lost update would show."""
    path, counter = tmp_path / "key.lock", tmp_path / "count"
    counter.write_text("0")
    doomed = holder(path, 60)
    workers = [start(_COUNT, path, counter, 25) for _ in range(4)]
    time.sleep(0.3)
    doomed.kill()
    doomed.wait()
    assert [worker.wait(50) for worker in workers] == [0, 0, 0, 0], workers[0].stderr
    assert counter.read_text() == "100"


def foreign(path: Path, number: int) -> Path:
    claim = path / f"{number}.json"
    write_json(claim, {"host": "elsewhere", "machine": "elsewhere", "pid": os.getpid(), "start": "1"})
    return claim


def test_another_host_is_believed_while_its_heart_beats(tmp_path: Path) -> None:
    claim, timing = foreign(tmp_path / "key.lock", 7), Timing(stale=0.6)
    alive, last_beat = threading.Event(), [0.0]

    def beat() -> None:
        for _ in range(10):
            os.utime(claim)
            last_beat[0] = time.monotonic()
            alive.wait(0.1)

    beating = threading.Thread(target=beat)
    beating.start()
    with hold_lock(tmp_path / "key.lock", timing):
        assert time.monotonic() - last_beat[0] >= 0.5
        assert (tmp_path / "key.lock/8.json").exists()
    beating.join()


@pytest.mark.parametrize(
    "text",
    [
        b"", b'{"host": "e', b"[]", b"null", b"5", b"{}", b'{"pid": 1}', b'{"machine": "m", "pid": "x", "start": 1}',
        b'{"host": "\xff"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_claim_that_names_nobody_is_taken_over_after_a_moment(tmp_path: Path, text: bytes) -> None:
    """A full disk or a flipped bit left it behind, or it is being written; nobody waits a minute for it."""
    (tmp_path / "key.lock").mkdir()
    (tmp_path / "key.lock/1.json").write_bytes(text)
    started = time.monotonic()
    with hold_lock(tmp_path / "key.lock", Timing(stale=60, unnamed=0.3)):
        assert 0.3 <= time.monotonic() - started < 10


def odd(kind: str, path: Path) -> None:
    """What is not a claim of ours, at the place of one."""
    outside = path.parent.parent / "outside"
    outside.write_text(json.dumps(owners.this_process()))
    make: dict[str, Callable[[], object]] = {
        "a folder": path.mkdir,
        "a link": lambda: path.symlink_to(outside),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a FIFO": lambda: os.mkfifo(path),
        "a link to a FIFO": lambda: (os.mkfifo(path.parent / "fifo"), path.symlink_to("fifo")),
    }
    make[kind]()


ODD = ("a folder", "a link", "a link to nothing", "a link to itself", "a FIFO", "a link to a FIFO")


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_no_claim(tmp_path: Path, kind: str) -> None:
    """It is taken over as a claim that names nobody; nothing is read or written through a link."""
    folder = tmp_path / "key.lock"
    folder.mkdir()
    odd(kind, folder / "3.json")
    before = (tmp_path / "outside").read_text()
    with hold_lock(folder, Timing(unnamed=0.1)):
        assert json.loads((folder / "4.json").read_text())["pid"] == os.getpid()
    for _ in range(3):  # it is left behind, or removed; it never stops anybody
        with hold_lock(folder):
            pass
    assert (tmp_path / "outside").read_text() == before


@pytest.mark.parametrize("name", ["٣.json", "007.json", "-1.json", "x.json", f"{'9' * 200}.json"])
def test_other_names_are_no_claims(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "key.lock"
    folder.mkdir()
    (folder / name).write_text(json.dumps(owners.this_process()))
    with hold_lock(folder):
        assert (folder / "1.json").exists()


@pytest.mark.parametrize("target", ["nowhere", "elsewhere", "file"])
def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "key.lock").symlink_to(target)
    with (
        pytest.raises(UserError, match=r"key\.lock: expected a folder .a lock., .*; remove it"),
        hold_lock(tmp_path / "key.lock"),
    ):
        pytest.fail("it was held")
    assert not list((tmp_path / "elsewhere").iterdir())


def dead_process() -> int:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("start", [None, "1", 1, "", []])
def test_a_dead_owner_is_dead_whatever_its_claim_says_of_its_start(tmp_path: Path, start: Any) -> None:
    write_json(tmp_path / "key.lock/1.json", owners.this_process() | {"pid": dead_process(), "start": start})
    began = time.monotonic()
    with hold_lock(tmp_path / "key.lock"):
        assert time.monotonic() - began < 10


def test_a_living_owner_of_unknown_start_is_believed_while_its_heart_beats(tmp_path: Path) -> None:
    write_json(tmp_path / "key.lock/1.json", owners.this_process() | {"start": None})
    began = time.monotonic()
    with hold_lock(tmp_path / "key.lock", Timing(stale=0.7)):
        assert 0.6 < time.monotonic() - began < 10


LOOK = """
import json, sys
from cogtune.runtime.owners import Timing, is_dead
for owner in map(json.loads, sys.argv[1:]):
    print(is_dead(owner, 1.0, Timing()), is_dead(owner, 61.0, Timing()))
"""


def test_a_process_of_another_user_that_proc_hides_is_believed() -> None:
    """Shared nodes of clusters mount /proc with hidepid: a colleague's live process is not to be seen there."""
    if reason := people.refusal():
        pytest.skip(reason)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    both = [owners.this_process(), owners.this_process() | {"pid": int(gone.stdout)}]
    look = people.words(people.BOB, [sys.executable, "-c", LOOK, *map(json.dumps, both)])
    hide = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    hide += ['mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    paths = environment() | {"PYTHONPATH": f"{REPO}/src"}
    done = subprocess.run([*hide, *look], env=paths, capture_output=True, text=True)
    if done.returncode and ("mount:" in done.stderr or "unshare" in done.stderr):
        pytest.skip(f"this machine cannot mount /proc again: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["False True", "True True"], done.stderr


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_a_full_disk_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """With and without hard links, a claim is there whole or not at all, and never over another one."""
    folder = tmp_path / "key.lock"

    def no_link(*paths: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with hold_lock(folder):
        pass

    real = open

    class Full:
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *exception: object) -> None:
            self._stream.close()

        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        stream = real(path, mode, *more, **options)
        return Full(stream) if "w" in mode or "x" in mode else stream

    before = sorted(folder.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        if not links:
            patched.setattr(Path, "write_text", lambda path, text: path.touch())
        with pytest.raises(OSError, match="No space left"), hold_lock(folder):
            pytest.fail("it was held")
    assert sorted(folder.iterdir()) == before
    with hold_lock(folder):
        pass
    assert {path.suffix for path in folder.iterdir()} == {".json"}


def test_an_owner_that_was_taken_over_from_ends(tmp_path: Path) -> None:
    owner = holder(tmp_path / "key.lock", 60)
    foreign(tmp_path / "key.lock", 2)
    assert owner.wait(5) == 1
    assert owner.stderr is not None
    assert "process" in owner.stderr.read()


def test_the_impatient_leave_a_live_owner_and_name_its_slurm_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    owner = holder(tmp_path / "key.lock", 60)
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    try:
        began = time.monotonic()
        with (
            pytest.raises(HeldError, match=r"process \d+ on .* \(Slurm job 17\) holds the lock of key") as refused,
            hold_lock(tmp_path / "key.lock", patience=1.0),
        ):
            pytest.fail("it was held")
        assert refused.value.slurm_job == "17"
        assert time.monotonic() - began >= 1.0
    finally:
        owner.kill()


def test_an_owner_in_the_same_slurm_job_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Slurm were not there: a whole workflow may be one job, and waiting keeps no GPU from others."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    owner = holder(tmp_path / "key.lock", 1.5)
    with hold_lock(tmp_path / "key.lock", patience=0.3):
        assert owner.wait(10) == 0


def test_the_impatient_wait_for_a_silent_owner(tmp_path: Path) -> None:
    """It may be dead: of another host that is known only after its heartbeat is missing for long."""
    foreign(tmp_path / "key.lock", 1)
    with hold_lock(tmp_path / "key.lock", Timing(stale=1.0), patience=0.2):
        pass


def test_a_sleeper_steps_back_behind_a_later_owner(tmp_path: Path) -> None:
    """It saw claim 1 released, slept, and finds number 2 free only because later owners cleaned up."""
    folder = tmp_path / "key.lock"
    write_json(folder / "1.json", {"released": True})
    before = locks._newest(folder)
    (folder / "1.json").unlink()
    write_json(folder / "5.json", owners.this_process())
    assert locks._take(folder, before) is None
    assert sorted(path.name for path in folder.iterdir()) == ["5.json"]
    assert not json.loads((folder / "5.json").read_text()).get("released")


def test_a_link_whose_reply_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a client asks again when the server's reply is lost, and gets EEXIST for the link that it made itself."""
    link = os.link

    def lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(os, "link", lost)
    with hold_lock(tmp_path / "lock"):
        assert [path.name for path in (tmp_path / "lock").iterdir()] == ["1.json"]
