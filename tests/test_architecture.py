"""The imports of the package are those that `docs/architecture.md` allows."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "redraft"


def allowed() -> dict[str, set[str]]:
    """By package what it may import, as the page's table says."""
    rows = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("| package | holds |")[1]
    found: dict[str, set[str]] = {}
    for row in rows.split("\n\n")[0].splitlines()[2:]:
        named, _, may = (cell.strip() for cell in row.strip("|").split(" | "))
        names = {name.removesuffix(".py").rstrip("/") for name in re.findall(r"`([^`]+)`", named)}
        imports = set(re.findall(r"`(\w+)`", may))
        imports |= set(found) if may.startswith("all the above") else set()
        found |= {name: imports | names | {"errors"} for name in names}
    return found


def imported(file: Path) -> set[str]:
    """The packages a file imports from."""
    packages = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redraft."):
            packages.add(str(node.module).split(".")[1])
    return packages


def test_packages_import_what_the_page_allows() -> None:
    table = allowed()
    found = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")}
    assert set(table) == {name.removesuffix(".py") for name in found} - {"__init__", "__main__"}
    for name, may in table.items():
        files = [PACKAGE / f"{name}.py", *(PACKAGE / name).rglob("*.py")]
        for file in (file for file in files if file.exists()):
            assert imported(file) <= may, file.relative_to(PACKAGE)
