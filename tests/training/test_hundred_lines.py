"""The example that fits on two pages computes what the engine computes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from luthier.datasets.formats import Example
from luthier.datasets.rendering import Renderer
from luthier.jobs.spec import RunSpec
from luthier.modeling.engines import open_engine
from luthier.modeling.load import load_base
from luthier.modeling.types import LoraShape
from luthier.training.plan import Fixed
from luthier.training.tokenising import rows_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "sft_in_100_lines.py"
ROWS = [
    (f"{question} Please tell me {'very ' * (index % 4)}soon.", f" {answer}, I am {'quite ' * (index % 3)}sure")
    for index, (question, answer) in enumerate([("What broke", "the app"), ("Who pays", "billing"), ("Why", "no reason")] * 5)
]
STEPS = 12


@pytest.fixture(autouse=True)
def _one_thread():
    """Steps this small are slower on more, and stand still on more than a busy machine has free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("prefer", ["fast", "plain"])
def test_the_engine_has_the_losses_of_the_example(prefer, bases, bench, tmp_path):
    base, data = bases / "luthier--tiny" / "1", tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": ask, "completion": answer}) + "\n" for ask, answer in ROWS))
    theirs = runpy.run_path(str(EXAMPLE))["train"](base, data, STEPS, rate=0.01)
    train = {"max_steps": STEPS, "learning_rate": 0.01}
    bench.spec = RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": "d", "seed": 42, "train": train})
    bench.fixed = Fixed(4, 4096, 1, "cpu", "fp32")
    examples = [Example(prompt=ask, completion=answer) for ask, answer in ROWS]
    bench.rows = rows_of("sft", examples, Renderer.load(base), 256).rows
    bench.attempt(open_engine(load_base(base, "cpu", "fp32"), LoraShape(rank=8, alpha=16), 42, prefer)).run()
    ours = [loss for _, loss in bench.losses()]
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours[-1] < ours[0] / 2
