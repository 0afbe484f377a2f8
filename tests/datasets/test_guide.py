"""Every example of the guide is read as the guide says."""

import re
import shlex
import subprocess
import sys
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


FILES = GUIDE.partition("## Files")[2].partition("\n## ")[0]
ROWS = re.findall(r"^```jsonl\n(.*?)^```", FILES, re.DOTALL | re.MULTILINE)
SCRIPTS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
PACKING = re.search(r"^```bash\n(.*?)^```", FILES, re.DOTALL | re.MULTILINE)[1].splitlines()
CONTAINERS = {"gz": ("gzip",), "zst": ("zstd",), "zip": ("zip",), "tar": ("tar",), "tar.gz": ("gzip", "tar")}


def made(datasets, alice, data: str | Path, **more):
    """The dataset of a text or of a file."""
    return datasets.upload(alice, an_upload(data.read_bytes() if isinstance(data, Path) else data.encode(), **more))


@pytest.mark.parametrize("form", ["json", "csv", "tsv"])
def test_the_same_rows_are_read_from_each_kind_of_file(datasets, alice, form):
    (text,) = re.findall(rf"^```{form}\n(.*?)^```", FILES, re.DOTALL | re.MULTILINE)
    found = made(datasets, alice, text)
    assert found.report.format == {"tsv": "csv"}.get(form, form)
    assert found.rows_sha256 == made(datasets, alice, ROWS[0]).rows_sha256


def test_the_scripts_of_the_guide_write_files_that_are_read(datasets, alice, tmp_path):
    assert len(SCRIPTS) == 2
    for script in SCRIPTS:
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    rows, digits = made(datasets, alice, tmp_path / "rows.parquet"), made(datasets, alice, tmp_path / "digits.zip")
    assert rows.rows_sha256 == made(datasets, alice, ROWS[0]).rows_sha256
    assert (rows.report.format, digits.report.format) == ("parquet", "idx")
    assert (digits.rows, digits.report.methods) == (2, ("classifier",))


@pytest.mark.parametrize("command", PACKING, ids=[command.split()[0] for command in PACKING])
def test_what_the_commands_of_the_guide_pack_is_read(datasets, alice, tmp_path, command):
    (tmp_path / "rows.jsonl").write_text(ROWS[0])
    if subprocess.run(["which", shlex.split(command)[0]], stdout=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("the tool is not on this machine")
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    (packed,) = (path for path in tmp_path.iterdir() if path.name.startswith("rows.") and path.name != "rows.jsonl")
    found = made(datasets, alice, packed)
    assert found.report.containers == CONTAINERS[packed.name.removeprefix("rows.").removeprefix("jsonl.")]
    assert found.rows_sha256 == made(datasets, alice, ROWS[0]).rows_sha256


def test_a_mapping_of_the_guide_makes_rows_of_other_names_readable(datasets, alice):
    mapping = re.search(r"--map (\S+)", FILES)[1]
    found = made(datasets, alice, ROWS[1], mapping=mapping)
    assert (found.report.mapping, found.report.methods) == (parse_mapping(mapping), ("sft",))


def test_the_commands_of_the_guide_map_what_can_be_mapped():
    mappings = re.findall(r"--map (\S+)", GUIDE)
    assert len(mappings) >= 4
    assert all(parse_mapping(mapping) for mapping in mappings)
