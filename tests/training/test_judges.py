"""Judges of a run: the base that is trained without its adapter, and other bases beside it."""

from __future__ import annotations

import json

import pytest
from tests.training.conftest import BigramEngine, save_small_llama

from luthier.datasets.packing import PassLimits
from luthier.datasets.rendering import Renderer
from luthier.graders import grade
from luthier.graders.templates import Ungradable
from luthier.graders.types import ScoreModel
from luthier.modeling.engines import open_engine
from luthier.modeling.load import load_base
from luthier.modeling.types import LoraShape
from luthier.training.methods.judges import Bench, Judge

LIMITS = PassLimits(8, 512)
OTHER = "somebody/judge"
ASKED = [{"role": "user", "content": "How good is {{ sample.output_text }} as a number?"}]
SCORE = {"type": "score_model", "model": OTHER, "input": ASKED, "range": [0, 10]}
GRPO = {"group_size": 4, "max_new_tokens": 6, "grader": SCORE}
PROMPTS = [{"prompt": f"Say the number {n}!", "wanted": str(n)} for n in range(4)]


class Plain:
    """Words are their letters' places in the alphabet."""

    end_id = 1

    def prompt(self, messages):
        return self.plain(messages[-1]["content"])

    def plain(self, text):
        return [ord(letter) % 20 + 2 for letter in text]


def test_each_is_asked_by_its_name_and_the_trained_base_without_its_adapter():
    own, other = BigramEngine(seed=1), BigramEngine(seed=2)
    own.b_RV.data.add_(1.0)  # it has learned
    bench = Bench(Judge(own, Plain(), 64), LIMITS, {OTHER: Judge(other, Plain(), 64, most_tokens=16)})
    asked = ([{"role": "user", "content": "ab"}], ["cd", "longer"])
    fresh = Judge(BigramEngine(seed=1), Plain(), 64).likely(*asked, LIMITS)
    assert bench("any", *asked) == fresh
    assert own.on  # as it was before
    assert bench(OTHER, *asked) == pytest.approx(Judge(BigramEngine(seed=2), Plain(), 64).likely(*asked, LIMITS))
    assert bench(OTHER, *asked) != fresh
    assert all(len(packed.ids_T) <= 16 for packed in other.passes)  # its own limit


def test_a_question_beyond_the_context_of_the_other_base_is_not_graded():
    bench = Bench(Judge(BigramEngine(), Plain(), 64), LIMITS, {OTHER: Judge(BigramEngine(), Plain(), 4)})
    with pytest.raises(Ungradable, match="4 tokens"):
        bench(OTHER, [{"role": "user", "content": "abcd"}], ["x"])


@pytest.mark.slow
def test_a_run_is_judged_by_another_base_that_the_trainer_loads(submitted, bases):
    folder = bases / "somebody--judge" / ("c" * 40)
    save_small_llama(folder, seed=5)
    judges = {OTHER: {"id": OTHER, "revision": "c" * 40, "url": f"hub:{OTHER}"}}
    train = {"max_steps": 2, "save_steps": 2, "batch_size": 2, "learning_rate": 0.001}
    job = submitted(train=train, lines=PROMPTS, judges=judges, more={"method": "grpo", "grpo": GRPO})
    assert job.run() == 0, job.log
    messages = [event.message for event in job.job.attempt(1).events()]
    assert f"Loading the base model {OTHER}, which judges." in messages
    saved = json.loads((job.folder / "attempts/1/checkpoints/step-00000002/answers.json").read_text("utf-8"))
    renderer = Renderer.load(folder)
    engine = open_engine(load_base(folder, "cpu", "fp32"), LoraShape(1, 1), 0)
    bench = Bench(Judge(engine, renderer, engine.base.context), LIMITS)
    for answer in saved["answers"]:
        told = answer["ids"][answer["answer_at"] :]
        text = renderer.decode([token for token in told if token not in renderer.stop_ids])
        assert answer["reward"] == pytest.approx(grade(ScoreModel(**SCORE), text, {}, bench).value, abs=1e-3)
