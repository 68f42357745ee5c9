"""Short names of files from any text."""

import unicodedata

_LONGEST = 40
"""Characters of a slug."""
_LONGEST_BYTES = 100
"""Its bytes; file systems allow 255 for a whole name."""


def slug(text: str, otherwise: str = "untitled") -> str:
    """``text`` as part of a file name: letters and digits of any script, in lower case, joined by single dashes.

    At most 40 characters, cut between words if the first one fits. ``otherwise`` if no letter or digit is left.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    # NFC last: lower() may split a letter, and macOS treats both forms as one name.
    letters = [letter if _is_wordlike(letter) else " " for letter in unicodedata.normalize("NFC", plain)]
    short = ""
    for word in "".join(letters).split():
        longer = f"{short}-{word}" if short else word[:_LONGEST]
        while not short and len(longer.encode()) > _LONGEST_BYTES:
            longer = longer[:-1]
        if len(longer) > _LONGEST or len(longer.encode()) > _LONGEST_BYTES:
            break
        short = longer
    return short or otherwise


def _is_wordlike(letter: str) -> bool:
    """Whether it is a letter, a digit, or a mark that belongs to the letter before it."""
    return unicodedata.category(letter)[0] in "LNM"
