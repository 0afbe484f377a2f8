"""No platform process imports torch, and the commands start light. Each check runs in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "pandas", "numpy", "mlflow")


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "imported",
    [
        "luthier.wiring",
        "luthier.supervisor",
        "luthier.server.main",
        "luthier.faces.rest.app",
        "luthier.faces.sdk",
        "luthier.faces.cli.tune",
    ],
)
def test_no_platform_module_loads_a_machine_learning_library(imported):
    assert modules_after(f"import {imported}").isdisjoint(HEAVY)


HELP = """
import sys
from luthier.faces.cli.{command} import main
sys.argv = ["{command}", "--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize("command", ["tune", "model", "dataset"])
def test_help_loads_no_library_that_it_does_not_need(command):
    loaded = modules_after(HELP.format(command=command))
    assert loaded.isdisjoint({*HEAVY, "httpx", "pydantic", "sqlalchemy", "fastapi", "uvicorn", "tokenizers", "jinja2"})


def test_the_trainer_refuses_a_bad_directory_before_it_loads_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "luthier.training", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "| torch" not in done.stderr
