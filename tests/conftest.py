"""Fixtures that every test may use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public benchmark data beside the checkout (see its SOURCES.md)."""
    return Path(__file__).parents[2] / "shared" / "data"
