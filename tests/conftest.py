"""Fixtures that every test may use."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for the network
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# One thread for each worker and each process that a test starts, set before torch is imported: more
# would wait for each other, and runs that are compared to the bit need the same number.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public benchmark data beside the checkout (see its SOURCES.md); a clone from
    elsewhere has none, and the tests that read it are skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("public benchmark data (../shared/data) is not at hand")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model (`model`) and problems (`problems.jsonl`) for whole runs."""
    from score_runs import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _no_precision_left_behind() -> Iterator[None]:
    """Accelerate keeps a process's precision; the next test may want another."""
    yield
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session", autouse=True)
def _no_locks_left_behind() -> Iterator[None]:
    """A process holds the locks of its runs until it ends, or until the end of `run_locks`."""
    from redraft.run_directory import run_locks

    with run_locks():
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_workers_left_behind() -> Iterator[None]:
    """Processes that pytest-xdist starts end without running exit handlers."""
    yield
    if "redraft.workers" in sys.modules:
        sys.modules["redraft.workers"].close_pools()
