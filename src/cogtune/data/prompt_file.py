"""The prompt file: one caption per line, for image-to-video `caption@@image`. Does not import torch: `plan` hashes the
images."""

import os
from dataclasses import dataclass
from pathlib import Path

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.paths import leads_into, quoted

SEPARATOR = "@@"
_KEY = "args.input_file"


@dataclass(frozen=True)
class Line:
    """One line of a prompt file. ``image``: the input image, for image-to-video only."""

    caption: str
    image: Path | None = None


def read_prompts(path: str | Path, with_images: bool = False) -> list[Line]:
    """The lines of a prompt file. As in upstream, an empty line is an empty caption. Raises ConfigError that lists all
    invalid lines; for ``with_images`` and the rest see `read_lines`."""
    lines, problems = read_lines(path, with_images)
    if problems:
        raise ConfigError("\n  ".join(f"{path}:{number}: {why}" for number, why in problems.items()), key=_KEY)
    return list(lines.values())


def read_lines(path: str | Path, with_images: bool = False) -> tuple[dict[int, Line], dict[int, str]]:
    """(the lines of a prompt file by number, stripped; why the others are invalid).

    The file is UTF-8; a byte order mark is dropped; lines end with LF, CRLF or CR. ``with_images``: each line must be
    ``caption@@image``. An image path is relative to the folder of the prompt file, or else to the working directory (as in
    upstream). After resolving symbolic links it must be in one of the two, because a prompt file may be from somebody
    else, and its images are shown in the report. Raises ConfigError for a file that cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # in text mode CRLF and CR become LF
    except OSError as error:
        if fault := machine_error_message(error, path):
            raise UserError(fault) from None
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", key=_KEY) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} is not UTF-8 text (line {line}: {error}); save it as UTF-8", key=_KEY) from None
    if not text:
        raise ConfigError(f"{path} is empty; expected one prompt per line", key=_KEY)
    lines, problems = dict[int, Line](), dict[int, str]()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        try:
            lines[number] = _with_image(line, path) if with_images else Line(line.strip())
        except UserError as error:
            problems[number] = str(error)
    return lines, problems


def line_problem(line: Line, takes_image: bool) -> str | None:
    """Why a line cannot be a prompt of a video that somebody asks for, although the stage `sample` makes one of it."""
    if not line.caption:
        return "empty; remove the line"
    if any("\ud800" <= letter <= "\udfff" for letter in line.caption):
        return "is not valid UTF-8 text"
    if "\0" in line.caption:
        return "contains a NUL character; is this a text file?"
    if SEPARATOR in line.caption:
        why = "--image gives the image of all prompts" if takes_image else "a text-to-video model takes no image"
        return f"contains {SEPARATOR}, which separates an image, but {why}"
    return None


def _with_image(line: str, path: Path) -> Line:
    """A line of an image-to-video prompt file. Raises UserError without the place."""
    caption, *images = (part.strip() for part in line.split(SEPARATOR))
    if len(images) != 1 or not images[0]:
        raise UserError(
            f"expected caption{SEPARATOR}image for an image-to-video model; found {line.strip()[:60]!r}",
        )
    roots = list(dict.fromkeys([path.resolve().parent, Path.cwd()]))
    for root in roots:
        candidate = root / images[0]
        if not leads_into(candidate, roots):
            raise UserError(
                f"{quoted(images[0])} is outside of {' and '.join(map(str, roots))}, or is a loop of symbolic links; images "
                f"must be in the folder of the prompt file or in the working directory",
            )
        if os.path.isfile(candidate):
            return Line(caption, Path(os.path.realpath(candidate)))
    candidates = ", then ".join(str(root / images[0]) for root in roots)
    raise UserError(f"no such image: {quoted(images[0])}; tried {candidates}")
