"""Parallel work: videos decoded ahead in threads, batches encoded on all devices."""

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
    """(item, ``work(item, decoder)``) in the order of ``items``. If ``work`` raises, the exception is the item's result.

    ``workers`` threads (at most the number of cores) run ahead of the reader, each with its own decoder; at most two
    results per worker are in memory. Leaving the loop ends the threads.
    """
    workers = max(1, min(workers, os.cpu_count() or 1))
    local, decoders = threading.local(), deque[Decoder]()

    def run_item(item: Item) -> Result | Exception:
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
            pending.append((item, pool.submit(run_item, item)))
        while pending:
            item, future = pending.popleft()
            result = future.result()
            for following in itertools.islice(source, 1):
                pending.append((following, pool.submit(run_item, following)))
            yield item, result
    finally:
        pool.shutdown(cancel_futures=True)
        for decoder in decoders:
            decoder.close()


def retry_damaged(path: Path, work: Callable[[], Result]) -> Result:
    """``work()`` for the video at ``path``. After a VideoError the whole file is read and ``work`` runs once more, because
    a decoder reports a temporary disk error as a damaged file. Raises OSError if the file cannot be read."""
    try:
        return work()
    except VideoError:
        file_digest(path)
        return work()


def map_over_devices(batches: Iterable[Item], encoders: list[Callable[[Item], Result]]) -> Iterator[Result]:
    """Encode each batch with one of ``encoders``, one thread per encoder; a single one runs in this thread, in order.

    With several, results are yielded when they are ready. An error of one is raised here, and the others stop after
    their batch.
    """
    if len(encoders) == 1:
        yield from map(encoders[0], batches)
        return
    source, source_lock, ended = iter(batches), threading.Lock(), threading.Event()
    results: queue.Queue[tuple[bool, Result | BaseException | None]] = queue.Queue(len(encoders))

    def put(has_value: bool, value: Result | BaseException | None) -> None:
        while not ended.is_set():
            try:
                results.put((has_value, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def run(encoder: Callable[[Item], Result]) -> None:
        try:
            while not ended.is_set():
                with source_lock:
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
            has_value, value = results.get()
            if isinstance(value, BaseException):
                raise value
            running -= not has_value
            if has_value:
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
