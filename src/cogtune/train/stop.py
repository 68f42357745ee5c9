"""A rank's answer to SIGTERM and SIGUSR1: it exits at once before the loop begins, and at the end of a step after that."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from cogtune.runtime.stopping import STOP_SIGNALS


class StopRequest:
    """Returns whether this rank must stop. ``leave``: ends the process with an exit code.

    A thread reads the signals, because Python runs signal handlers in the main thread only, and that one may wait in a
    library for a rank that has ended.
    """

    def __init__(self, code: int, leave: Callable[[int], Any]) -> None:
        self._code, self._leave = code, leave
        self._requested = self._deferred = False
        self._lock = threading.Lock()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._read, args=(reading,), name="stop-request", daemon=True).start()

    def __call__(self) -> bool:
        return self._requested

    def defer(self) -> None:
        """From now on the loop stops after a step. Before, nothing is lost if the process ends."""
        with self._lock:
            self._deferred = True

    def _read(self, reading: int) -> None:
        while numbers := os.read(reading, 64):
            if not set(numbers) & set(STOP_SIGNALS):
                continue
            with self._lock:
                self._requested = True
                if not self._deferred:
                    self._leave(self._code)
