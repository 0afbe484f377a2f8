"""GRPO takes a model that adds badly further than it came by answers alone. A full run, over three seeds."""

from __future__ import annotations

import random

import pytest

from luthier.datasets.formats import Example, Prompt
from luthier.datasets.packing import PassLimits
from luthier.datasets.rendering import Renderer
from luthier.graders.types import StringCheck
from luthier.jobs.spec import GrpoSpec, RunSpec
from luthier.modeling.engines import open_engine
from luthier.modeling.load import load_base
from luthier.modeling.tiny import build_tiny
from luthier.modeling.types import LoraShape
from luthier.training.methods import grpo, sft
from luthier.training.plan import Fixed
from luthier.training.tokenising import rows_of

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3600)]

SUMS = [(left, right) for left in range(10) for right in range(10)]
SPEC = GrpoSpec(
    grader=StringCheck(operation="eq", input="{{ sample.output_text }}", reference="{{ item.answer }}"),
    group_size=8,
    max_new_tokens=4,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "1"
    build_tiny(folder)
    return folder


def run(bench, engine, rows, make, **train):
    request = {"base_model": "luthier/tiny", "dataset": "d", "seed": train.pop("seed"), "train": train}
    bench.spec, bench.fixed, bench.rows, bench.method = (
        RunSpec.model_validate(request),
        Fixed(16, 4096, 2, "cpu", "fp32"),
        rows,
        make,
    )
    bench.attempt(engine).run()


def test_rewards_go_beyond_what_answers_taught(tiny, bench, another_bench, record):
    renderer = Renderer.load(tiny)
    asked = [(f"{left}+{right}=", str(left + right)) for left, right in SUMS]
    prompts = rows_of("grpo", [Prompt(item={"answer": answer}, text=ask) for ask, answer in asked], renderer, 64)
    found = {}
    for seed in range(3):
        engine = open_engine(load_base(tiny, "cpu", "fp32"), LoraShape(16, 32), seed)
        shown = random.Random(seed).choices(asked, k=400)
        answers = rows_of("sft", [Example(prompt=ask, completion=answer) for ask, answer in shown], renderer, 64).rows
        run(another_bench(bench), engine, answers, sft.Sft, seed=seed, max_steps=60, learning_rate=2e-3, schedule="constant")

        def make(rows):
            return grpo.Grpo(rows, prompts.beside, SPEC, renderer.decode, frozenset(renderer.stop_ids), 64)

        def right(engine=engine, make=make) -> float:
            return -make(prompts.rows).validation_loss(engine, PassLimits(64, 4096), lambda _: None)

        before = right()
        run(another_bench(bench), engine, prompts.rows, make, seed=seed, max_steps=120, learning_rate=5e-4, schedule="constant")
        found[f"seed {seed}: right before and after, of 100 sums"] = f"{before:.2f}, {right():.2f}"
        assert right() > before
    record("grpo-learns-to-add", "GRPO after a short SFT, greedy answers", found)
