"""Determine which frames depend on damaged packets.

A decoder conceals damage and continues; all frames predicted from a concealed one are wrong too. Packets are numbered
in decoding order. A frame only depends on earlier packets, back to a clean start: a key frame that is a complete intra
picture. (Key frames of intra refresh are not complete: they repair the picture in parts.)
"""


class Damage:
    """Collects errors, and decides for each shown frame whether it is affected."""

    def __init__(self) -> None:
        self._errors: set[int] = set()
        self._shown: set[int] = set()

    def add_error(self, number: int) -> None:
        """Record that the decoder reported an error for packet ``number``."""
        self._errors.add(number)

    def affects(self, number: int, clean_start: bool) -> bool:
        """Whether damage affects the frame of packet ``number``, the next one shown. ``clean_start``: it is an intra
        key frame.

        Frames shown before a clean start and decoded after it ("leading pictures" of an open GOP) may depend on packets
        before and after it. No later frame depends on them, so their errors end with them.
        """
        if clean_start and number not in self._errors:
            self._errors = {error for error in self._errors if error > number and error not in self._shown}
            self._shown = {later for later in self._shown if later > number}
        self._shown.add(number)
        return any(error <= number for error in self._errors)
