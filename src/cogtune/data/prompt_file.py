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
    """The lines of a prompt file, stripped. As in upstream, an empty line is an empty caption.

    ``with_images``: each line must be ``caption@@image``. An image path is relative to the folder of the prompt file, or
    else to the working directory (as in upstream). After resolving symbolic links it must be in one of the two, because
    a prompt file may be from somebody else, and its images are shown in the report. Raises ConfigError with the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if fault := machine_error_message(error, path):
            raise UserError(fault) from None
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}", key=_KEY) from None
    if not lines:
        raise ConfigError(f"{path} is empty; expected one prompt per line", key=_KEY)
    if not with_images:
        return [Line(line.strip()) for line in lines]
    return [_with_image(line, path, number) for number, line in enumerate(lines, 1)]


def _with_image(line: str, path: Path, number: int) -> Line:
    caption, *images = (part.strip() for part in line.split(SEPARATOR))
    if len(images) != 1 or not images[0]:
        raise ConfigError(
            f"{path}:{number}: expected caption{SEPARATOR}image for an image-to-video model; found {line.strip()[:60]!r}",
            key=_KEY,
        )
    roots = list(dict.fromkeys([path.resolve().parent, Path.cwd()]))
    for root in roots:
        candidate = root / images[0]
        if not leads_into(candidate, roots):
            raise ConfigError(
                f"{path}:{number}: {quoted(images[0])} is outside of {' and '.join(map(str, roots))}, or is a loop of "
                f"symbolic links; images must be in the folder of the prompt file or in the working directory",
                key=_KEY,
            )
        if os.path.isfile(candidate):
            return Line(caption, Path(os.path.realpath(candidate)))
    candidates = ", then ".join(str(root / images[0]) for root in roots)
    raise ConfigError(f"{path}:{number}: no such image: {quoted(images[0])}; tried {candidates}", key=_KEY)
