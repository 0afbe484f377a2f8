"""Every example in a docstring gives what it says."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_EXAMPLES = [
    path.relative_to(ROOT)
    for folder in ("src", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "    >>> " in path.read_text("utf-8")
]


def module_of(path: Path):
    if path.parts[0] == "src":
        return importlib.import_module(".".join(path.with_suffix("").parts[1:]))
    spec = importlib.util.spec_from_file_location(path.stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_the_examples_of_a_docstring_are_true(path, capsys):
    found = doctest.testmod(module_of(path))
    assert found.attempted > 0
    assert found.failed == 0, capsys.readouterr().out
