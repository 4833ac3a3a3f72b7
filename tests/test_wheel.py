"""The wheel works where there is no checkout: everything that a run needs is in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_runs_the_demo_outside_the_checkout(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", str(ROOT))
    [wheel] = (tmp_path / "wheels").glob("redraft-*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", "site", str(wheel))
    where = run("-c", "import redraft; print(redraft.__file__)").strip()
    assert where == str(tmp_path / "site" / "redraft" / "__init__.py")
    few = "--problems 4 --stage-one-steps 1 --stage-two-steps 1 --device cpu --json --out demo"
    summary = json.loads(run("-m", "redraft", "demo", *few.split()))
    assert list(summary) == ["folder", "base", "multi-turn RL (sum)", "SCoRe"]
