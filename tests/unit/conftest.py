"""Which unit tests start processes, hold locks or run whole stages: `make test-fast` leaves them out."""

import pytest

INTEGRATION = {
    "test_caches", "test_decoder", "test_deepspeed_limits", "test_export", "test_faults", "test_hostile_names",
    "test_image_to_video", "test_locks", "test_recipes", "test_replaced", "test_sample", "test_scan_faults",
    "test_skipped", "test_survey", "test_ways", "test_write_faults",
}  # fmt: skip
"""Modules of tests/unit that took over 2.5 s of 130 s, all of them together 70 s, and are not the only ones of their room."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in INTEGRATION:
            item.add_marker(pytest.mark.integration)
