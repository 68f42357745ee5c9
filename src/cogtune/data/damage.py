"""Which frames stand on data that the decoder complained of.

A decoder conceals what it cannot read and goes on; every frame that is predicted from the concealed one is wrong too.
Packets are numbered in the order of decoding, and prediction only reaches back in that order, up to a clean start: a key
frame that is one whole intra picture. (Intra refresh marks key frames that are not: they repair the picture bit by bit.)
"""


class Damage:
    """Told of errors and of frames as they come, it tells which frames are hit."""

    def __init__(self) -> None:
        self._errors: set[int] = set()
        self._presented: set[int] = set()

    def error(self, number: int) -> None:
        """The decoder complained while it was given packet ``number``."""
        self._errors.add(number)

    def shows(self, number: int, clean_start: bool) -> bool:
        """Whether the frame of packet ``number``, the next one shown, is hit. ``clean_start``: it is an intra key frame.

        What was shown before a clean start and decoded behind it ("leading pictures" of an open GOP) may refer to both
        sides, and nothing that is shown later refers to it; so its errors end with it.
        """
        if clean_start and number not in self._errors:
            self._errors = {error for error in self._errors if error > number and error not in self._presented}
            self._presented = {number_shown for number_shown in self._presented if number_shown > number}
        self._presented.add(number)
        return any(error <= number for error in self._errors)
