"""`run_experiments` as the document of its users calls it: real runs of the image classifier, the best in Production."""

import json
import os
import random
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

WORDS = ("--num-runs", "2", "--register-best", "--stage", "Production", "--json")


def images(path, count: int, seed: int):
    """A bright upper half is 1, a bright lower half 0; with noise."""
    chance = random.Random(seed)
    lines = ["label," + ",".join(f"pixel{number}" for number in range(784))]
    for number in range(count):
        label = number % 2
        halves = [chance.randrange(150, 256) if upper == label else chance.randrange(60) for upper in (1, 0) for _ in range(392)]
        lines.append(",".join(map(str, (label, *halves))))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_best_of_some_runs_goes_to_production(house, tmp_path):
    client = house.start()
    client.datasets.upload(images(tmp_path / "digits.csv", 80, 1), name="digits")
    client.datasets.upload(images(tmp_path / "digits-test.csv", 20, 2), name="digits-test")
    key = (house.data / "admin.key").read_text().strip()
    ended = subprocess.run(
        [sys.executable, "-m", "ml_core.experiments.run_experiments", *WORDS],
        env={**os.environ, "LUTHIER_API_URL": house.url(), "LUTHIER_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr + house.log()
    told = json.loads(ended.stdout)
    assert [run["state"] for run in told["runs"]] == ["succeeded"] * 2
    assert told["best"]["accuracy"] == max(run["accuracy"] for run in told["runs"]) > 0.9
    assert client.models.get("MNISTClassifier").id == told["best"]["model"]["id"]
    assert client.models.get(told["best"]["model"]["id"]).stage == "Production"
    assert "2 of 2: succeeded" in ended.stderr
