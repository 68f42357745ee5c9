"""Packets of a video on one clock, where the file's own clock starts again: parts of MPEG-TS that were joined, a recording
that was interrupted.

The rule is that of ffmpeg's command line (`ts_discontinuity_detect`): the packet behind a jump takes the time at which the
one in front of it ends, and what follows is moved by the same span. It holds for formats whose clock may jump by their
standard (MPEG-TS, MPEG-PS, Ogg); in others a jump is a defect.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.format import Flags

JUMP_SECONDS = 10
"""A larger step between packets is a jump (ffmpeg's `-dts_delta_threshold`)."""
_BACK_SECONDS = Fraction(1, 10)
"""A larger step backwards is a jump too."""
_AHEAD = 3
"""Packets in front of a join that the demuxer may call corrupt although nothing is missing: the counter of MPEG-TS packets
jumps there, and a parser passes the news on a frame or two early. If something is missing, the decoder says so."""


@dataclass(frozen=True)
class Joined:
    """A packet whose times are on the clock of the first one. ``moved``: they were not. ``corrupt``: the demuxer says that
    bytes are missing."""

    packet: Any
    moved: bool
    corrupt: bool


def packets(container: Any, stream: Any) -> Iterator[Joined]:
    """The packets of ``stream`` in order, the empty one at the end too."""
    jumps = bool(container.format.flags & Flags.ts_discont.value)
    clock, waiting = _Clock(stream), deque[tuple[Any, bool, bool]]()
    for packet in itertools.chain(container.demux(stream), [None]):
        if packet is not None:
            waiting.append((packet, jumps and clock.move(packet), clock.moved))
        while waiting and (packet is None or len(waiting) > _AHEAD):
            first, _, moved = waiting.popleft()
            yield Joined(first, moved, first.is_corrupt and not any(begins for _, begins, _ in waiting))


class _Clock:
    """All in units of the stream's time base."""

    def __init__(self, stream: Any) -> None:
        unit = Fraction(stream.time_base)
        self._jump, self._back = int(JUMP_SECONDS / unit), int(_BACK_SECONDS / unit)
        self._frame = int(1 / (Fraction(stream.average_rate) * unit)) if stream.average_rate else 0
        self._offset = 0
        self._last: int | None = None
        self._next = 0

    @property
    def moved(self) -> bool:
        """Whether packets are moved from here on."""
        return self._offset != 0

    def move(self, packet: Any) -> bool:
        """Put ``packet`` on the first packet's clock. Whether another part can begin with it: the file's clock jumps there, or
        it is a key frame that follows without a gap."""
        duration = packet.duration or self._frame
        if packet.dts is None:
            self._add(packet, self._offset)
            self._next += duration
            return False
        self._add(packet, self._offset)
        step = packet.dts - self._next
        begins = packet.is_keyframe and 2 * abs(step) <= duration
        if self._last is not None and (abs(step) > self._jump or packet.dts + self._back < self._last):
            self._offset -= step
            self._add(packet, -step)
            begins = True
        self._last = packet.dts
        self._next = packet.dts + duration
        return begins

    @staticmethod
    def _add(packet: Any, offset: int) -> None:
        if offset and packet.pts is not None:
            packet.pts += offset
        if offset and packet.dts is not None:
            packet.dts += offset
