"""Ctrl-C while ranks train."""

import os
import signal

import pytest

from cogtune.train import launch
from cogtune.train.launch import forwarding_stops


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
