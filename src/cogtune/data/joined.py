"""Put the packets of a video on one clock if the clock of the file restarts, as in concatenated MPEG-TS or interrupted
recordings.

The rule is that of ffmpeg's command line (`ts_discontinuity_detect`): the packet after a jump starts when the packet
before it ends, and all later packets are moved by the same offset. This applies to formats whose standard allows jumps
(MPEG-TS, MPEG-PS, Ogg); in others a jump is an error.
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
"""Packets before a join that the demuxer may mark as corrupt although no data is missing: the counter of MPEG-TS
packets jumps there, and a parser sets the mark one or two frames early. If data is missing, the decoder reports it."""


@dataclass(frozen=True)
class Joined:
    """A packet with times on the clock of the first packet. ``moved``: its times were changed. ``corrupt``: the demuxer
    reports missing bytes."""

    packet: Any
    moved: bool
    corrupt: bool


def packets(container: Any, stream: Any) -> Iterator[Joined]:
    """The packets of ``stream`` in order, including the empty one at the end."""
    jumps = bool(container.format.flags & Flags.ts_discont.value)
    clock, waiting = _Clock(stream), deque[tuple[Any, bool, bool]]()
    for packet in itertools.chain(container.demux(stream), [None]):
        if packet is not None:
            waiting.append((packet, jumps and clock.move(packet), clock.moved))
        while waiting and (packet is None or len(waiting) > _AHEAD):
            first, _, moved = waiting.popleft()
            yield Joined(first, moved, first.is_corrupt and not any(begins for _, begins, _ in waiting))


class _Clock:
    """The offset of the current packet. All values are in units of the stream's time base."""

    def __init__(self, stream: Any) -> None:
        unit = Fraction(stream.time_base)
        self._jump, self._back = int(JUMP_SECONDS / unit), int(_BACK_SECONDS / unit)
        self._frame = int(1 / (Fraction(stream.average_rate) * unit)) if stream.average_rate else 0
        self._offset = 0
        self._last: int | None = None
        self._next = 0

    @property
    def moved(self) -> bool:
        """Whether the following packets are moved."""
        return self._offset != 0

    def move(self, packet: Any) -> bool:
        """Put ``packet`` on the first packet's clock. Returns whether another part may begin with it: the file's clock
        jumps, or it is a key frame that follows without a gap."""
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
