"""Convert decoded frames to RGB, rotated and mirrored according to their display matrix.

Uses ffmpeg's filters with the arguments of its command line (`configure_input_video_filter`), so the bytes are equal to
ffmpeg's, 10 bit and full range included.
"""

import math
import struct
from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

from cogtune.data.video import VideoError

Filter = tuple[str, str]


def rotation_filters(matrix: tuple[int, ...]) -> list[Filter]:
    """The filters that ffmpeg applies for a display matrix (9 numbers, 16.16 fixed point). Raises VideoError for an
    angle that is not a multiple of 90 degrees."""
    a, b, _, c, d, *_ = matrix
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return []
    turn = round(math.degrees(math.atan2(b / down, a / across))) % 360
    if abs(turn - 90) < 1:
        return [("transpose", "cclock_flip" if c > 0 else "clock")]
    if abs(turn - 180) < 1:
        return [(name, "") for name, value in (("hflip", a), ("vflip", d)) if value < 0]
    if abs(turn - 270) < 1:
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    if 1 < turn < 359:
        raise VideoError(f"rotated by {turn} degrees; only quarter turns are supported")
    return [("vflip", "")] if d < 0 else []


class FrameConverter:
    """Converts decoded frames to RGB. The filter graph is reused while the frames have the same properties."""

    def __init__(self) -> None:
        self._properties: tuple[Any, ...] | None = None
        self._graph: Any = None
        self.rotated = False
        """Whether the latest frame was rotated or mirrored."""

    def to_rgb(self, frame: Any) -> np.ndarray:
        """uint8 (H, W, 3). Raises VideoError."""
        data = frame.side_data.get(Type.DISPLAYMATRIX)
        matrix = struct.unpack("=9i", bytes(data)[:36]) if data is not None else ()
        properties = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, matrix)
        if properties != self._properties:
            filters = rotation_filters(matrix) if matrix else []
            self._graph, self._properties, self.rotated = _graph(frame, filters), properties, bool(filters)
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()


def _graph(frame: Any, filters: list[Filter]) -> Any:
    graph = Graph()
    last = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    for name, arguments in [*filters, ("format", "pix_fmts=rgb24"), ("buffersink", "")]:
        following = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(following)
        last = following
    graph.configure()
    return graph
