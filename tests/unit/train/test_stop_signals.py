"""Ctrl-C while ranks train."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from cogtune.runtime.stopping import Stopped, stop_on_sigterm
from cogtune.train import clock, launch
from cogtune.train.launch import announcing, forwarding_stops


def test_a_second_ctrl_c_ends_at_once_but_not_a_copy_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sends its workers the SIGINT that the terminal has sent them already."""
    now = [100.0]
    monkeypatch.setattr(launch.time, "monotonic", lambda: now[0])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    before = signal.getsignal(signal.SIGINT)
    with forwarding_stops([]) as received:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 0.5
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        now[0] += 2.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_the_handler_writes_nothing_and_the_next_poll_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """A signal may interrupt a write to the same stream: "RuntimeError: reentrant call"."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    polls: list[int] = []
    with caplog.at_level(logging.WARNING), forwarding_stops([]) as received:
        poll = announcing(received, lambda: polls.append(len(caplog.messages)))
        poll()
        os.kill(os.getpid(), signal.SIGINT)
        assert (received, caplog.messages) == ([signal.SIGINT], [])
        poll()
        poll()
    assert polls == [0, 1, 1]
    assert "Ctrl-C again to stop without one" in caplog.messages[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_stop_reaches_the_ranks_as_sigterm(number: signal.Signals) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as rank:
        assert rank.stdout is not None
        rank.stdout.readline()
        with forwarding_stops([rank]) as received:
            os.kill(os.getpid(), number)
        assert (received, rank.wait(10)) == ([number], 7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_stop_ends_other_stages_too(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped), stop_on_sigterm():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_the_clock_of_the_first_rank_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    watch = clock.Clock(max_hours=0.5, save_minutes=10, started=700.0)  # 300 s of loading
    due = []
    for now[0] in range(1000, 3000, 100):
        due.append((watch.save_due(), watch.stop_due()))
        if watch.save_due():
            watch.saved()
    assert [1000 + 100 * i for i, (save, _) in enumerate(due) if save] == [1600, 2200, 2800]
    assert next(1000 + 100 * i for i, (_, stop) in enumerate(due) if stop) == 2500
    never = clock.Clock()
    assert not never.save_due()
    assert not never.stop_due()
