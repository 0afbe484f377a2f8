"""Each row of the groups A, B, E, J and W of the catalogue of bad inputs has a test that bears its id."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
GROUPS = {"A": 28, "B": 8, "E": 12, "J": 34, "W": 12}
ROWS = {f"{group}{number:02}" for group, count in GROUPS.items() for number in range(1, count + 1)}


def ids_of(tree: ast.Module) -> set[str]:
    """From names like `test_b03_b04_usage_is_counted_once`, and from tables of cases: `("J07", ...)`, `"W02": [...]`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found |= {row.upper() for row in re.findall(r"(?<=_)[abejw]\d\d(?=_)", node.name)}
        elif isinstance(node, ast.Tuple) and node.elts:
            found |= _row_of(node.elts[0])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                found |= set() if isinstance(value, ast.Constant) else _row_of(key)  # a remark is no case
    return found


def _row_of(node: ast.expr | None) -> set[str]:
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return set(re.findall(r"^[ABEJW]\d\d\b", text))


def test_every_row_has_a_test_that_bears_its_id():
    found = set()
    for path in TESTS.rglob("test_*.py"):
        found |= ids_of(ast.parse(path.read_text("utf-8")))
    assert ROWS - found == set()


def test_a_remark_and_another_name_are_no_case():
    text = (
        "E = {'E03': 'elsewhere', 'W01': [1], 'J17 x': (b'', 1)}\nC = [('B02', 1)]\ndef test_a09_b(): pass\ndef a10_x(): pass\n"
    )
    assert ids_of(ast.parse(text)) == {"W01", "J17", "B02", "A09"}
