"""Work that overlaps: videos decoded ahead in threads, batches encoded on every device there is."""

import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cogtune.data.decoder import Decoder
from cogtune.data.video import VideoError
from cogtune.runtime.digest import file_digest

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2


def decode_ahead(
    items: Iterable[Item], work: Callable[[Item, Decoder], Result], workers: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """(item, ``work(item, decoder)``) in the order of ``items``; an Exception of one is its result, the others go on.

    ``workers`` threads (no more than there are cores) run ahead of the reader, each with a decoder of its own; never
    more than two results for a worker are in memory. Leaving the loop ends them.
    """
    workers = max(1, min(workers, os.cpu_count() or 1))
    local, decoders = threading.local(), deque[Decoder]()

    def one(item: Item) -> Result | Exception:
        if not hasattr(local, "decoder"):
            local.decoder = Decoder()
            decoders.append(local.decoder)
        try:
            return work(item, local.decoder)
        except Exception as error:
            return error

    source, pending = iter(items), deque[tuple[Item, Future[Result | Exception]]]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item in itertools.islice(source, workers * _AHEAD):
            pending.append((item, pool.submit(one, item)))
        while pending:
            item, future = pending.popleft()
            result = future.result()
            for following in itertools.islice(source, 1):
                pending.append((following, pool.submit(one, following)))
            yield item, result
    finally:
        pool.shutdown(cancel_futures=True)
        for decoder in decoders:
            decoder.close()


def confirmed(path: Path, work: Callable[[], Result]) -> Result:
    """What ``work`` makes of the video at ``path``. Its VideoError counts only if it comes again after every byte of the
    file was read: a decoder does not tell a disk that failed for a moment from a damaged file. Raises OSError where the
    file cannot be read."""
    try:
        return work()
    except VideoError:
        file_digest(path)
        return work()


def on_all(batches: Iterable[Item], encoders: list[Callable[[Item], Result]]) -> Iterator[Result]:
    """Each batch through one of ``encoders``, one thread per encoder; with one, in order and in this thread.

    With several, results come as they are ready. An error of one is raised here, and the others stop after their batch.
    """
    if len(encoders) == 1:
        yield from map(encoders[0], batches)
        return
    source, taking, ended = iter(batches), threading.Lock(), threading.Event()
    results: queue.Queue[tuple[bool, Result | BaseException | None]] = queue.Queue(len(encoders))

    def put(good: bool, value: Result | BaseException | None) -> None:
        while not ended.is_set():
            try:
                results.put((good, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def run(encoder: Callable[[Item], Result]) -> None:
        try:
            while not ended.is_set():
                with taking:
                    batch = next(source, ended)
                if batch is ended:
                    break
                put(True, encoder(batch))  # pyright: ignore[reportArgumentType]  # the sentinel is gone
            put(False, None)
        except BaseException as error:
            put(False, error)

    threads = [threading.Thread(target=run, args=(encoder,), name="encode") for encoder in encoders]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            good, value = results.get()
            if isinstance(value, BaseException):
                raise value
            running -= not good
            if good:
                yield value  # pyright: ignore[reportReturnType]
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch
