"""Every example of the guide is read as the guide says."""

import re
from pathlib import Path

import pytest

from luthier.datasets.kinds import KINDS
from luthier.datasets.mapping import parse_mapping
from luthier.datasets.types import SchemaName
from luthier.jobs.spec import Method

from .conftest import an_upload

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "prepare-data.md").read_text("utf-8")
EXAMPLES = re.findall(r"^## ([\w, ]+): ([^\n]+)\n.*?^```jsonl\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("methods", "title", "rows"), EXAMPLES, ids=[title for _, title, _ in EXAMPLES])
def test_the_rows_of_an_example_serve_the_methods_above_it(datasets, alice, methods, title, rows):
    report = datasets.upload(alice, an_upload(rows.encode())).report
    assert ", ".join(report.methods) == methods
    assert report.usable_rows == rows.count("\n")
    assert set(report.counts) <= {"too_few_rows", "mixed_schema"}


def test_the_guide_has_an_example_of_every_kind():
    assert len(EXAMPLES) == len(KINDS)
    assert set(KINDS) == set(SchemaName.__args__)
    shown = {method for methods, _, _ in EXAMPLES for method in methods.split(", ")}
    assert shown == {method for kind in KINDS.values() for method in kind.methods} <= set(Method.__args__)


TABLES = re.findall(r"^## ([\w, ]+): [^#]*?^```csv\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("methods", "table"), TABLES)
def test_a_table_of_the_guide_is_read_as_the_rows_beside_it(datasets, alice, methods, table):
    report = datasets.upload(alice, an_upload(table.encode())).report
    assert (report.format, ", ".join(report.methods), report.usable_rows) == ("csv", methods, 2)


def test_the_commands_of_the_guide_map_what_can_be_mapped():
    mappings = re.findall(r"--map (\S+)", GUIDE)
    assert len(mappings) >= 4
    assert all(parse_mapping(mapping) for mapping in mappings)
