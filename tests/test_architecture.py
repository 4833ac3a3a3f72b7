"""The imports of the package are those that `docs/architecture.md` allows."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "redraft"


def allowed() -> dict[str, set[str]]:
    """By room what it may import, as the page's table says."""
    rows = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("| room | holds |")[1]
    found: dict[str, set[str]] = {}
    for row in rows.split("\n\n")[0].splitlines()[2:]:
        rooms, _, may = (cell.strip() for cell in row.strip("|").split(" | "))
        names = {name.removesuffix(".py").rstrip("/") for name in re.findall(r"`([^`]+)`", rooms)}
        imports = set(found) if may == "all the above" else set(re.findall(r"`(\w+)`", may))
        found |= {name: imports | names | {"errors"} for name in names}
    return found


def imported(file: Path) -> set[str]:
    """The rooms a file imports from."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redraft."):
            rooms.add(str(node.module).split(".")[1])
    return rooms


def test_rooms_import_what_the_page_allows() -> None:
    table = allowed()
    rooms = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")}
    of_the_package = {room.removesuffix(".py") for room in rooms} - {"__init__", "__main__"}
    assert set(table) == of_the_package
    for room, may in table.items():
        files = [PACKAGE / f"{room}.py", *(PACKAGE / room).rglob("*.py")]
        for file in (file for file in files if file.exists()):
            assert imported(file) <= may, file.relative_to(PACKAGE)
