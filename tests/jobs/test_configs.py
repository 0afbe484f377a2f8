"""Every configuration that is shipped is a run, but for its data."""

from pathlib import Path

import pytest

from luthier.jobs.spec import RunSpec
from luthier.jobs.yaml12 import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_configuration_is_a_run(path):
    spec = RunSpec.model_validate({**read_yaml(path.read_bytes(), max_bytes=10_000), "dataset": "ds_1"})
    assert spec.method == path.parent.name


def test_every_configuration_stands_in_the_table():
    page = (CONFIGS / "README.md").read_text("utf-8")
    assert [path for path in FILES if f"`{path.parent.name}/{path.stem}`" not in page] == []
