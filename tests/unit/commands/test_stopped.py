"""The last line of a command or a workflow that was stopped: one sentence, whoever says it."""

import argparse
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from cogtune import __main__ as cogtune
from cogtune.runtime.stopped_workflow import StopSentence
from cogtune.runtime.stopping import RESUME, STOPPED, Interrupted, Stopped

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
    parser.add_argument("--plain", action="store_true")
    parser.set_defaults(run_command=run, debug=False)
    monkeypatch.setattr("cogtune.commands.parser.build_parser", lambda: parser)
    try:
        ended = cogtune.main(["--plain"] if plain else [])
    except Stopped as stopped:
        ended = stopped.code
    assert ended == code
    assert capsys.readouterr().err == ("" if explained or plain else SENTENCE)


class Workflow:
    """Messages as Snakemake 9.27 logs them. ``shown``: what its terminal handler writes, and the closing sentence."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.addFilter(StopSentence(self._stream))
        self._logger = logging.Logger("workflow")
        self._logger.addHandler(handler)

    def job_ends(self, stage: str, ending: str, log: Path) -> None:
        command = f"python -m cogtune {stage} --plain"
        self._logger.error(f"RuleException:\nCalledProcessError:\nCommand 'set -e;  {command}' {ending}.")
        extra = {"shellcmd": command, "rule_name": stage, "log": [str(log)]}
        self._logger.error(f"Error in rule {stage}", extra=extra)

    def info(self, text: str) -> None:
        self._logger.info(text)

    def end(self) -> list[str]:
        self._logger.error("Exiting because a job execution failed. Look above for error messages")
        self._logger.info("Complete log(s): x.log")
        self._logger.info("Elapsed time: 0:00:01")
        self._logger.error("WorkflowError:\nAt least one job did not complete successfully.")
        return self._stream.getvalue().splitlines()


ENDINGS = {
    "Ctrl-C": "returned non-zero exit status 130",
    "SIGTERM": "returned non-zero exit status 143",
    "shell killed": "died with <Signals.SIGTERM: 15>",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("explained", [False, True])
def test_the_last_word_on_a_stopped_workflow_is_ours(ending: str, explained: bool, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"stopped at step 5 of 9. {RESUME}\nStopped: 143\n" if explained else "made 3\n")
    workflow = Workflow()
    workflow.info("Terminating processes on user request, this might take some time.")
    workflow.job_ends("train", ending, tmp_path / "log")
    sentence = f"cogtune: stopped in train; finished work is kept. {RESUME}"
    assert workflow.end()[1:] == ([] if explained else [sentence])


def test_a_failed_job_beside_a_stopped_one_is_shown(tmp_path: Path) -> None:
    workflow = Workflow()
    workflow.job_ends("train", ENDINGS["SIGTERM"], tmp_path)
    workflow.job_ends("text", "returned non-zero exit status 1", tmp_path)
    shown_text = "\n".join(workflow.end())
    assert "train" not in shown_text
    assert "Error in rule text" in shown_text
    assert "At least one job did not complete" in shown_text
    assert RESUME not in shown_text


def test_a_workflow_that_failed_keeps_all_messages(tmp_path: Path) -> None:
    workflow = Workflow()
    workflow.job_ends("text", "returned non-zero exit status 1", tmp_path)
    assert len(workflow.end()) == 3 + 1 + 3 + 2, "exception, job, three lines, the end"


def test_snakemake_that_finishes_its_jobs_after_sigterm_says_how_to_go_on() -> None:
    workflow = Workflow()
    workflow.info("Will exit after finishing currently running jobs (scheduler).")
    assert workflow.end()[-1] == f"cogtune: stopped; finished work is kept. {RESUME}"
