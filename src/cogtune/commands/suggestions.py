"""What an unknown option of the command line may have meant."""

import argparse
import shlex
from collections.abc import Iterator, Sequence

from cogtune.config.key_types import nearest
from cogtune.config.schema.args import ArgsSection


def unknown_words(parser: argparse.ArgumentParser, unknown: Sequence[str], words: Sequence[str]) -> str:
    """The usage error for the words of the command line that ``parser`` does not know."""
    unknown_text = shlex.join(unknown)
    option = unknown[0].partition("=")[0]
    if unknown == ["--debug"]:
        return (
            f"put --debug before the command: cogtune --debug {shlex.join(word for word in words if word != '--debug')}"
        )
    if _is_value(option):
        rest, values = _without_values(words, unknown)
        return f"{values}: put config values after `--`: cogtune {rest} -- {values}"
    hint = _hint(parser, option, words) if option.startswith("-") else ""
    return f"unrecognized arguments: {unknown_text}{hint}"


def _is_value(word: str) -> bool:
    """Whether it is a flag of SAT. They must follow `--`, unlike in upstream's scripts."""
    name = word.partition("=")[0].removeprefix("--").replace("-", "_")
    return word.startswith("--") and name in ArgsSection.__dataclass_fields__.keys() - {"base"}


def _without_values(words: Sequence[str], unknown: Sequence[str]) -> tuple[str, str]:
    """(the words without SAT's flags, these flags). argparse may have taken the value of a flag for something else."""
    rest, values, is_value = list[str](), list[str](), False
    for word in words:
        if word.startswith("-"):
            is_value = word in unknown and _is_value(word)
        (values if is_value else rest).append(word)
    return shlex.join(rest), shlex.join(values)


def commands_with(parser: argparse.ArgumentParser, option: str) -> list[str]:
    """The subcommands that have ``option``, such as "new" and "weights get"."""
    return [name for name, command in _commands(parser) if option in _options(command)]


def _hint(parser: argparse.ArgumentParser, option: str, words: Sequence[str]) -> str:
    """The nearest option of the command in ``words``, or else the other commands that have this one."""
    used = ""
    for name, _ in _commands(parser):  # a nested command comes after the one that it belongs to
        if words[: len(name.split())] == name.split():
            used = name
    if near := nearest(option, _options(dict(_commands(parser)).get(used, parser))):
        return f"; did you mean {near[0]}?"
    if others := commands_with(parser, option):
        return f"; {option} belongs to {', '.join(f'cogtune {name}' for name in others)}"
    return f"; see cogtune {used} --help" if used else ""


def _commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            for name, command in action.choices.items():
                yield f"{prefix}{name}", command
                yield from _commands(command, f"{prefix}{name} ")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    actions = parser._actions  # pyright: ignore[reportPrivateUsage]
    return [option for action in actions for option in action.option_strings if option.startswith("--")]
