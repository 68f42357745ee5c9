"""The prompt file: one caption a line, for image-to-video `caption@@image`. No torch: the plan hashes what it names."""

import os
from dataclasses import dataclass
from pathlib import Path

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.paths import leads_into, shown

SEPARATOR = "@@"
_KEY = "args.input_file"


@dataclass(frozen=True)
class Line:
    """One line of a prompt file. ``image``: the file to start from, with image-to-video."""

    caption: str
    image: Path | None = None


def read_prompts(path: str | Path, with_images: bool = False) -> list[Line]:
    """The lines of a prompt file, stripped; an empty line is the empty caption, as upstream has it.

    ``with_images``: each line must be ``caption@@image``. An image is looked up beside the prompt file, then in the
    working directory, which is where upstream looks, and must lie below one of the two, symbolic links followed: a
    prompt file may come from somebody else, and what it names is shown in the report. Raises ConfigError with the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if fault := machine_error_message(error, path):
            raise UserError(fault) from None
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}", key=_KEY) from None
    if not lines:
        raise ConfigError(f"{path} is empty; expected one prompt a line", key=_KEY)
    if not with_images:
        return [Line(line.strip()) for line in lines]
    return [_with_image(line, path, number) for number, line in enumerate(lines, 1)]


def _with_image(line: str, path: Path, number: int) -> Line:
    caption, *images = (part.strip() for part in line.split(SEPARATOR))
    if len(images) != 1 or not images[0]:
        raise ConfigError(
            f"{path}:{number}: {line.strip()[:60]!r}; the model starts from an image: expected caption{SEPARATOR}image",
            key=_KEY,
        )
    roots = list(dict.fromkeys([path.resolve().parent, Path.cwd()]))
    for root in roots:
        candidate = root / images[0]
        if not leads_into(candidate, roots):
            raise ConfigError(
                f"{path}:{number}: {shown(images[0])} leads out of {' and '.join(map(str, roots))}, or round in circles; "
                f"images of a prompt file lie below it or below the working directory",
                key=_KEY,
            )
        if os.path.isfile(candidate):
            return Line(caption, Path(os.path.realpath(candidate)))
    looked = ", then ".join(str(root / images[0]) for root in roots)
    raise ConfigError(f"{path}:{number}: no such image: {shown(images[0])}, looked for at {looked}", key=_KEY)
