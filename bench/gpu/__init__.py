"""What the engine does on a GPU, at the published sizes: `python -m bench.gpu` (`make bench-gpu`)."""
