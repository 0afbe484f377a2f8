"""Learning in earnest: twenty rows are known by heart, and the adapter that was published answers each of them exactly."""

from __future__ import annotations

import pytest
from tests.training.test_gang_process import alone

from luthier.datasets.rendering import Renderer
from luthier.modeling.load import load_base
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Sampling

pytestmark = pytest.mark.slow

CITIES = "Oslo Lima Rome Cairo Quito Dakar Paris Delhi Tokyo Berne Accra Sofia Minsk Hanoi Seoul Tunis Kyiv Riga Doha Baku"
WORDS = ["three", "seven", "nine", "twelve", "one", "four"]
TWENTY = [(f"What is place {index}?", f"{city}, with {WORDS[index % 6]} gates.") for index, city in enumerate(CITIES.split())]
TRAIN = {"max_steps": 120, "learning_rate": 0.005, "batch_size": 10, "warmup_steps": 10}
RANK = 64


def test_twenty_rows_are_learned_by_heart(submitted):
    job = alone(submitted(train=TRAIN, rows=TWENTY, more={"lora": {"rank": RANK, "alpha": 2 * RANK}}))
    losses = [loss for _, loss in job.losses()]
    assert losses[-1] < 0.05 < losses[0]

    # By the model's own code, on a base that this job never touched.
    engine = PlainEngine(load_base(job.bases / "luthier--tiny" / "1", "cpu", "fp32"), LoraShape(RANK, 2 * RANK), 0)
    engine.load_adapter(job.folder / "attempts/1/results/final_model")
    renderer = Renderer.load(job.folder / "attempts/1/results/final_model")
    questions = [renderer.prompt([{"role": "user", "content": question}]) for question, _ in TWENTY]
    answers = engine.generate(questions, Sampling(48, stop_ids=renderer.stop_ids))
    assert [renderer.decode(answer.token_ids) for answer in answers] == [answer for _, answer in TWENTY]
