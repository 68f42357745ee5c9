"""Ctrl-C while ranks train."""

import logging
import os
import signal

import pytest

from cogtune.train import launch
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
