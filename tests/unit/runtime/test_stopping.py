"""SIGTERM ends a job by an exception, and later ones do not disturb the end."""

import os
import signal
import threading

import pytest

from cogtune.runtime.stopping import STOPPED, Stopped, ignore_sigterm, stop_on_sigterm


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_raises_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def job() -> None:
        with stop_on_sigterm():
            try:
                terminate()
            finally:
                terminate()
                cleaned.append(True)

    with pytest.raises(Stopped) as caught:
        job()
    assert cleaned
    assert caught.value.code == STOPPED == 143
    assert not caught.value.progress
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stopped_job_can_ignore_further_signals() -> None:
    with stop_on_sigterm():
        ignore_sigterm()
        terminate()


def test_other_threads_are_left_alone() -> None:
    entered = []

    def work() -> None:
        with stop_on_sigterm():
            entered.append(signal.getsignal(signal.SIGTERM))
            ignore_sigterm()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]
