"""The videos of `cogtune sample EXPERIMENT|WEIGHTS`: each prompt at each strength with each seed, their ids and file names."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogtune.config.errors import ConfigError
from cogtune.config.schema.common import number
from cogtune.data.prompt_file import Line, line_problem, read_lines
from cogtune.errors import UserError
from cogtune.runtime.digest import digest
from cogtune.runtime.slugs import slug
from cogtune.work.volatile import PromptRow

_ID_DIGITS = 32


@dataclass(frozen=True)
class Asked:
    """A prompt with the place where it stands, for messages: a line of a file, or an option."""

    where: str
    line: Line


@dataclass(frozen=True)
class Reading:
    """``prompts``: those that can be sampled, each once. ``problems``: place -> why that prompt cannot be sampled;
    ``places``: of all prompts, in their order."""

    prompts: list[Asked]
    problems: dict[str, str]
    places: list[str]

    def refuse(self, more: Mapping[str, str]) -> None:
        """Raise UserError that lists all prompts that cannot be sampled, also those of ``more``."""
        problems = {**more, **self.problems}
        listed = [f"{place}: {problems[place]}" for place in [*self.places, *more] if place in problems]
        if listed:
            raise UserError("\n  ".join(["these prompts cannot be sampled:", *dict.fromkeys(listed)]))


def asked_prompts(texts: Sequence[str], file: Path | None, image: Path | None, takes_image: bool) -> Reading:
    """The prompts of ``--prompt`` and ``--prompts``. ``image``: the input image of all of them. Raises UserError for a
    file that cannot be read."""
    named = takes_image and image is None
    if named and texts:
        raise UserError(
            "--prompt: this is an image-to-video model; add --image FILE, or use --prompts with prompt@@image"
        )
    lines, invalid = dict[int, Line](), dict[int, str]()
    try:
        if file is not None:
            lines, invalid = read_lines(file, with_images=named)
    except ConfigError as error:
        raise UserError(f"--prompts: {error.message}") from None
    typed = [Asked(f"--prompt {i}", Line(text.strip())) for i, text in enumerate(texts, 1)]
    read = [Asked(f"{file}:{i}", line) for i, line in lines.items()]
    problems = {one.where: why for one in typed + read if (why := line_problem(one.line, takes_image))}
    problems |= {f"{file}:{i}": why for i, why in invalid.items()}
    places = [one.where for one in typed] + [f"{file}:{i}" for i in sorted({*lines, *invalid})]
    first: dict[tuple[str, Path | None], Asked] = {}
    for one in typed + read:
        if one.where not in problems:
            line = one.line if image is None else Line(one.line.caption, image.resolve())
            first.setdefault((line.caption, line.image), Asked(one.where, line))
    return Reading(list(first.values()), problems, places)


def too_long(prompts: Sequence[Asked], tokens: Callable[[str], int], most: int) -> dict[str, str]:
    """Place -> message, of the prompts with more tokens than the text encoder takes."""
    return {
        one.where: f"{count} tokens; the text encoder takes {most}, and would drop the end; shorten it"
        for one in prompts
        if (count := tokens(one.line.caption)) > most
    }


def caption_id(caption: str) -> str:
    """The name of a caption's row in the text stage."""
    return hashlib.sha256(caption.encode()).hexdigest()


def rows_of(
    prompts: Sequence[Asked],
    strengths: Sequence[float],
    seeds: Sequence[int],
    negative: str | None,
    content: Callable[[Path], str],
) -> list[PromptRow]:
    """A row for each prompt, strength and seed, in this order. ``content``: the digest of an image."""
    negative_id = None if negative is None else caption_id(negative)
    rows = list[PromptRow]()
    for one in prompts:
        own, image = caption_id(one.line.caption), one.line.image
        pixels = None if image is None else content(image)
        for strength in dict.fromkeys(strength + 0.0 for strength in strengths):
            for seed in dict.fromkeys(seeds):
                name = digest([own, negative_id, seed, strength, pixels])[:_ID_DIGITS]
                path = None if image is None else str(image)
                rows.append(PromptRow(name, one.line.caption, own, seed, strength, negative, negative_id, path))
    return rows


def file_names(rows: Sequence[PromptRow]) -> dict[str, str]:
    """Row -> file name: number and words of the prompt, strength and seed."""
    numbers: dict[tuple[str, str | None], int] = {}
    for row in rows:
        numbers.setdefault((row.caption, row.image), len(numbers) + 1)
    width = max(2, len(str(len(numbers))))
    return {
        row.id: f"{numbers[row.caption, row.image]:0{width}d}-{slug(row.caption, 'prompt')}"
        f"_strength-{number(row.strength)}_seed-{row.seed}.mp4"
        for row in rows
    }
