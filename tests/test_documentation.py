"""The documentation is whole: every page is in its contents, and every link leads somewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(root: Path, out: Path) -> str:
    """What Sphinx complains of."""
    command = [sys.executable, "-m", "sphinx", "-q", "-c", "docs", "-b", "dummy", ".", str(out)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stderr


def test_links_lead_somewhere(tmp_path: Path) -> None:
    assert build(ROOT, tmp_path) == ""


def test_a_broken_link_and_a_page_without_a_place_are_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path / "docs")
    (tmp_path / "README.md").write_text("# A\n\n[one](docs/tutorial.md#no-such-heading)\n")
    (tmp_path / "docs" / "tutorial.md").write_text("# B\n\n[two](nowhere.md)\n")
    (tmp_path / "docs" / "lost.md").write_text("# C\n")
    said = build(tmp_path, tmp_path / "out")
    for each in ("no-such-heading", "nowhere.md", "lost.md: WARNING: document isn't included"):
        assert each in said
