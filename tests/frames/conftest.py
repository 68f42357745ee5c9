"""The corpus, made as far as a test asks for it, and a decoder."""

from collections.abc import Iterator

import pytest

from cogtune.data.decoder import Decoder
from tests.frames.corpus import Corpus
from tests.frames.streams import ALL


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"), ALL)


@pytest.fixture(scope="session")
def patient() -> Iterator[Decoder]:
    """A decoder that gives up early: a stream of this size takes less than a second."""
    with Decoder(patience=15) as made:
        yield made
