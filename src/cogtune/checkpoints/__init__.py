"""Read the headers of weight files: names, dtypes, shapes and byte offsets of the tensors. Does not import torch.

`folders.read_header` detects the layout of a path, `kinds` the component and family, `fit` compares weights with a
network. No code in a file is run: pickles are read by a restricted interpreter (see torch_file.py).
"""

from cogtune.checkpoints.folders import read_header
from cogtune.checkpoints.header import Header, Joined, Source, Stored

__all__ = ["Header", "Joined", "Source", "Stored", "read_header"]
