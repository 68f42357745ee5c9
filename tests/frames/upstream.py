"""Upstream's data_video.SFTDataset from a file to pixels, statement by statement, as the peer of tests and of a benchmark.

decord reads the whole window at full size; the frames are chosen, padded, resized by torchvision (which goes through
float32) and cropped. Only what torchvision does to the numbers is written out, so that it need not be installed.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cogtune.data.clips import ClipSettings


def upstream_clip(path: Path, settings: ClipSettings, threads: int = 0) -> Tensor:
    """The pixels of a clip: uint8 (F, 3, H, W). ``threads`` of decord, 0 for its own choice. Raises what upstream raises."""
    import decord

    reader = decord.VideoReader(str(path), height=-1, width=-1, num_threads=threads)
    count, fps, frames = len(reader), reader.get_avg_fps(), settings.max_num_frames
    start, end, indices = upstream_window(count, fps, settings)
    found = torch.from_numpy(reader.get_batch(np.arange(start, min(end, count))).asnumpy())
    chosen = found[torch.tensor((indices - start).tolist())][:frames]
    padded = torch.cat([chosen, chosen[-1:].expand(frames - len(chosen), -1, -1, -1)])
    return upstream_resize(padded, settings.video_size)


def upstream_window(count: int, fps: float, settings: ClipSettings) -> tuple[int, int, np.ndarray]:
    """(first frame, frame behind the last one, chosen indices); ZeroDivisionError for a source slower than asked."""
    frames, start = settings.max_num_frames, int(settings.skip_frms_num)
    if count / fps * settings.fps > frames:
        end = int(start + frames / settings.fps * fps)
        step = (end - start) // frames
        if step == 0:
            raise ZeroDivisionError("upstream's step is 0")
        return start, end, np.arange(start, end, step).astype(int)
    if count > frames:
        end = int(count - settings.skip_frms_num)
        return start, end, np.arange(start, end, max((end - start) // frames, 1)).astype(int)
    usable = count - 2 * start
    end = start + (usable - 3 if usable % 4 == 0 else usable - usable % 4 + 1)
    return start, end, np.arange(start, end).astype(int)


def upstream_resize(frames_FHWC: Tensor, clip_size: list[int]) -> Tensor:
    """uint8 (F, H, W, 3) to uint8 (F, 3, *clip_size): one side fits, the other is cut off evenly."""
    height, width = frames_FHWC.shape[1:3]
    tall, wide = clip_size
    wider = width / height > wide / tall
    size = [tall, int(width * tall / height)] if wider else [int(height * wide / width), wide]
    frames_FCHW = frames_FHWC.permute(0, 3, 1, 2)
    if size != [height, width]:
        resized = torch.nn.functional.interpolate(
            frames_FCHW.float(), size, mode="bicubic", antialias=True, align_corners=False
        )
        frames_FCHW = resized.clamp(0, 255).round().to(torch.uint8)
    top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
    return frames_FCHW[:, :, top : top + tall, left : left + wide]
