"""Order, errors, limits and endings of overlapped work."""

import threading
import time
from collections.abc import Iterator

import pytest

from cogtune.data.decoder import Decoder
from cogtune.data.pipeline import decode_ahead, in_batches, map_over_devices


def test_results_come_in_order_and_errors_in_their_place() -> None:
    def work(item: int, decoder: Decoder) -> int:
        time.sleep(0.002 * (item % 3))
        if item == 4:
            raise ValueError("four")
        return item * item

    found = list(decode_ahead(range(10), work, workers=2))
    assert [item for item, _ in found] == list(range(10))
    assert [result for item, result in found if item != 4] == [item * item for item in range(10) if item != 4]
    assert isinstance(found[4][1], ValueError)


def test_it_runs_ahead_but_not_far() -> None:
    started: list[int] = []
    results = decode_ahead(range(100), lambda item, decoder: started.append(item), workers=1)
    for _ in range(5):
        next(results)
    time.sleep(0.05)
    assert 5 < len(started) <= 5 + 2
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    ended = len(started)
    time.sleep(0.05)
    assert len(started) == ended


def test_each_thread_has_its_own_decoder() -> None:
    seen: dict[int, set[int]] = {}

    def work(item: int, decoder: Decoder) -> None:
        seen.setdefault(threading.get_ident(), set()).add(id(decoder))
        time.sleep(0.002)

    list(decode_ahead(range(20), work, workers=2))
    assert all(len(decoders) == 1 for decoders in seen.values())


def test_one_encoder_works_in_this_thread() -> None:
    assert list(map_over_devices("abc", [lambda text: (text, threading.get_ident())])) == [
        (x, threading.get_ident()) for x in "abc"
    ]


def test_several_encoders_share_the_batches() -> None:
    used: set[int] = set()

    def encoder(number: int):
        def encode(batch: int) -> int:
            used.add(number)
            time.sleep(0.002)
            return batch * 10

        return encode

    assert sorted(map_over_devices(range(30), [encoder(0), encoder(1), encoder(2)])) == [
        10 * batch for batch in range(30)
    ]
    assert used == {0, 1, 2}


@pytest.mark.parametrize("where", ["encoder", "source"])
def test_an_error_ends_all(where: str) -> None:
    def source() -> Iterator[int]:
        for number in range(1000):
            if where == "source" and number == 5:
                raise ValueError("five")
            yield number

    def encode(batch: int) -> int:
        if where == "encoder" and batch == 5:
            raise ValueError("five")
        return batch

    before = threading.active_count()
    with pytest.raises(ValueError, match="five"):
        list(map_over_devices(source(), [encode, encode]))
    assert threading.active_count() == before


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    results = map_over_devices(range(1000), [lambda batch: batch, lambda batch: batch])
    next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert threading.active_count() == before


def test_in_batches() -> None:
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches([], 3)) == []
