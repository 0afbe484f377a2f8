"""The limits of how code reads here. A number that is too large is a reason to split, not to raise the number."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for path in (ROOT / "src").rglob("*.py") if "versions" not in path.parts)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def lengths_of_functions(path: Path) -> list[tuple[int, str]]:
    tree = ast.parse(path.read_text("utf-8"))
    return [
        (node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    ]


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[int(len(values) * share)]


def test_files_are_small():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    written = [count for count in lines.values() if count]  # the empty __init__ files say nothing about size
    assert {str(path): count for path, count in lines.items() if count > 500} == {}
    assert percentile(written, 0.9) <= 300
    assert statistics.median(written) <= 160


def test_functions_are_small():
    found = [pair for path in SOURCES for pair in lengths_of_functions(path)]
    assert [name for count, name in found if count > 60] == []
    counts = [count for count, _ in found]
    assert percentile(counts, 0.9) <= 30
    assert statistics.median(counts) <= 10


def test_broad_excepts_are_rare_and_say_why():
    lines = [(path, number, line) for path in SOURCES for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)]
    broad = [(path, number, line) for path, number, line in lines if re.search(r"except (Base)?Exception\b", line)]
    assert [f"{path}:{number}" for path, number, line in broad if "#" not in line] == []
    assert len(broad) <= max(4, len(lines) / 2000)


@pytest.mark.parametrize("word", ["utils", "helpers", "manager", "common", "misc"])
def test_no_file_is_named_for_nothing(word):
    assert [str(path) for path in SOURCES if word in path.stem] == []


def test_mocks_are_a_last_resort():
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    text = [path.read_text("utf-8") for path in tests if path != Path(__file__)]
    uses = sum(len(re.findall(r"\bMagicMock\b|\bmock\.|monkeypatch\.setattr", source)) for source in text)
    count = sum(len(re.findall(r"^\s*(?:async )?def test_", source, re.MULTILINE)) for source in text)
    assert uses <= 0.05 * count


def test_feature_init_files_are_empty():
    features = [path for path in SOURCES if path.name == "__init__.py" and path.parent.name in _FEATURES]
    assert [str(path) for path in features if path.read_text("utf-8").strip()] == []


def test_services_and_seams_state_their_guarantees():
    files = [path for path in SOURCES if path.name in {"service.py", "seams.py"}]
    missing = []
    for path in files:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                verbs = [verb for verb in node.body if isinstance(verb, FUNCTIONS) and not verb.name.startswith("_")]
                missing += [f"{path.relative_to(ROOT)} {node.name}.{verb.name}" for verb in verbs if not ast.get_docstring(verb)]
    assert missing == []


_FEATURES = {"accounts", "billing", "bases", "datasets", "jobs", "registry", "serving"}
