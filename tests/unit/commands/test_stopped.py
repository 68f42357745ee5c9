"""The last line of a command that was stopped: one sentence, whoever says it."""

import argparse
from collections.abc import Sequence

import pytest

from cogtune import __main__ as cogtune
from cogtune.runtime.stopping import STOPPED, Interrupted, Stopped

SENTENCE = "cogtune: stopped; finished work is kept. Run the same command again to resume\n"


@pytest.mark.parametrize("plain", [False, True], ids=["by hand", "job of Snakemake"])
@pytest.mark.parametrize(
    ("ends_by", "code", "explained"),
    [
        (KeyboardInterrupt(), 130, False),
        (Interrupted(), 130, True),
        (Stopped(), STOPPED, False),
        (Stopped(explained=True), STOPPED, True),
    ],
    ids=["Ctrl-C", "Ctrl-C that the stage explained", "SIGTERM", "SIGTERM that the stage explained"],
)
def test_one_sentence(
    ends_by: BaseException, code: int, explained: bool, plain: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
        raise ends_by

    parser = argparse.ArgumentParser()
    parser.set_defaults(run_command=run, debug=False, plain=plain)
    monkeypatch.setattr(cogtune, "build_parser", lambda: parser)
    try:
        ended = cogtune.main([])
    except Stopped as stopped:
        ended = stopped.code
    assert ended == code
    assert capsys.readouterr().err == ("" if explained or plain else SENTENCE)
