"""What a weight file holds, from its header alone: names, types, shapes, and where the bytes lie. No torch.

`read_header` finds out what a path is; `recognise` says what the weights are; `misfit` what of them does not belong to
a network. Nothing in a file is run: pickles are read by an interpreter that knows no functions (see torch_file.py).
"""

from cogtune.checkpoints.folders import read_header
from cogtune.checkpoints.header import Header, Joined, Source, Stored

__all__ = ["Header", "Joined", "Source", "Stored", "read_header"]
