"""Unknown options: the message says what was meant, or which command has them."""

import pytest

from cogtune.__main__ import main
from cogtune.commands.parser import build_parser
from cogtune.commands.suggestions import commands_with


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample mine --promt sea", "unrecognized arguments: --promt sea; did you mean --prompt?"),
        ("store gc --yess", "unrecognized arguments: --yess; did you mean --yes?"),
        ("plan mine --valid x", "--valid belongs to cogtune new"),
        ("new mine --older-than 1d", "--older-than belongs to cogtune store gc"),
        ("plan mine --zzz", "unrecognized arguments: --zzz; see cogtune plan --help"),
        ("--zzz plan", "unrecognized arguments: --zzz"),
        ("sample mine --prompt sea more words", "unrecognized arguments: more words"),
        ("plan --train-iters 3", "--train-iters 3: put config values after `--`: cogtune plan -- --train-iters 3"),
        ("plan mine --train-iters=3", "put config values after `--`: cogtune plan mine -- --train-iters=3"),
        ("plan mine --seed 3 --plain", "--seed 3: put config values after `--`: cogtune plan mine --plain -- --seed 3"),
        ("plan mine --debug", "put --debug before the command: cogtune --debug plan mine"),
    ],
)
def test_the_usage_error(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert capsys.readouterr().err.rstrip().endswith(message)


def test_options_of_nested_commands() -> None:
    parser = build_parser()
    assert commands_with(parser, "--forget") == ["store gc"]
    assert commands_with(parser, "--update") == ["weights get"]
    assert commands_with(parser, "--none-has-this") == []
