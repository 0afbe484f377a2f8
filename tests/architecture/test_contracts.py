"""The import contracts bite: one planted violation each, in a copy, must break them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("jobs/rules.py", "import luthier.faces.rest.errors"),
        ("backends/storage/local.py", "import luthier.jobs.spec"),
        ("jobs/service.py", "import luthier.backends.storage.local"),
        ("faces/sdk/client.py", "import luthier.jobs.service"),
        ("training/loop.py", "import luthier.database"),
        ("serving/service.py", "import torch"),
        ("jobs/spec.py", "import luthier.settings"),
        ("faces/rest/jobs.py", "import luthier.jobs.store"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(tmp_path, file, line):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "src/luthier" / file
    target.write_text(f"{target.read_text('utf-8')}\n{line}\n", "utf-8")
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [str(linter), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
