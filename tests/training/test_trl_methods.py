"""DPO step by step as TRL's DPOTrainer, and GRPO's loss and gradients on TRL's own batch."""

from __future__ import annotations

import os
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from luthier.datasets.formats import Example, Pair
from luthier.datasets.packing import PassLimits
from luthier.datasets.rendering import Renderer
from luthier.graders.types import StringCheck
from luthier.jobs.spec import DpoSpec, GrpoSpec, RunSpec
from luthier.modeling.engines import open_engine
from luthier.modeling.load import load_base
from luthier.modeling.types import LoraShape
from luthier.training.batches import Row, Rows, order_of
from luthier.training.method import Step
from luthier.training.methods.dpo import Dpo
from luthier.training.methods.grpo import Answer, Grpo, _Round
from luthier.training.plan import Fixed
from luthier.training.tokenising import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what other libraries deprecate in each other

RATE, SEED, STEPS = 0.01, 42, 4
PAIRS = [
    (f"{question} Tell me {'very ' * (index % 3)}soon.", f" {good}{' indeed' * (index % 2)}", f" {bad}{' or so' * (index % 3)}")
    for index, (question, good, bad) in enumerate(
        [("What broke", "the app", "nothing"), ("Who pays", "billing", "you do"), ("Where", "in the menu", "no idea")] * 8
    )
]
BASE = "luthier--tiny/1"
ARGUMENTS = {
    "learning_rate": RATE,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "logging_first_step": True,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "seed": SEED,
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("WANDB_DISABLED", "true")


def their_model(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), AutoTokenizer.from_pretrained(base)


def their_lora():
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
        ({"loss": "hinge", "beta": 0.5}, {"loss_type": ["hinge"], "beta": 0.5}),
        ({"sft_weight": 0.4}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.4]}),
    ],
)
def test_every_dpo_step_has_the_loss_and_the_gradient_of_trl(ours, theirs, bases, bench, tmp_path):
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from datasets import Dataset

    seen = []

    class Log(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **details):
            if logs and "loss" in logs:
                seen.append((float(logs["loss"]), float(logs["grad_norm"]), float(logs["rewards/margins"])))

    model, tokens = their_model(bases / BASE)
    rows = [PAIRS[index] for index in order_of(SEED, 0, len(PAIRS))]
    config = DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        lr_scheduler_type="constant",
        max_length=256,
        train_sampling_strategy="sequential",
        **ARGUMENTS,
        **theirs,
    )
    data = Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows])
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=data, processing_class=tokens, peft_config=their_lora(), callbacks=[Log()]
    )
    trainer.model.save_pretrained(tmp_path / "first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()

    engine = open_engine(load_base(bases / BASE, "cpu", "fp32"), LoraShape(rank=8, alpha=16), SEED)
    engine.load_adapter(tmp_path / "first")
    train = {"max_steps": STEPS, "learning_rate": RATE, "schedule": "constant"}
    request = {"base_model": "luthier/tiny", "dataset": "d", "seed": SEED, "method": "dpo", "train": train}
    bench.spec, bench.fixed = RunSpec.model_validate(request), Fixed(4, 4096, 1, "cpu", "fp32")
    bench.rows = rows_of(
        "dpo",
        [Pair(Example(prompt=ask, completion=good), Example(prompt=ask, completion=bad)) for ask, good, bad in PAIRS],
        Renderer.load(bases / BASE),
        256,
    ).rows
    bench.method = partial(Dpo, spec=DpoSpec(**ours))
    attempt = bench.attempt(engine)
    attempt.run()
    steps = [step for event in bench.job.events() if event.kind == "step" for step in event.data["steps"]]
    assert len(steps) == len(seen) == STEPS
    for (_, loss, _, norm, *_), (their_loss, their_norm, _) in zip(steps, seen, strict=True):
        assert loss == pytest.approx(their_loss, rel=2e-4, abs=2e-5)
        assert norm == pytest.approx(their_norm, rel=2e-3)


@pytest.fixture(scope="module")
def their_grpo(bases, tmp_path_factory):
    """A GRPOTrainer that never samples: its loss is called on a batch of ours."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from trl import GRPOConfig, GRPOTrainer

    from datasets import Dataset

    folder = tmp_path_factory.mktemp("grpo")

    def make(**fields):
        model, tokens = their_model(bases / BASE)
        config = GRPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=6,
            **ARGUMENTS,
            **fields,
        )
        return GRPOTrainer(
            model=model,
            reward_funcs=lambda **details: [0.0],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
            processing_class=tokens,
            peft_config=their_lora(),
        )

    return make


ANSWERS = [  # question, answer, advantage
    ([20, 21, 22], [30, 31, 32, 33], 1.0),
    ([20, 21, 22], [40, 41], -1.0),
    ([50, 51], [60, 61, 62, 63, 64, 65], 0.5),
    ([50, 51], [70], -0.5),
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"normalise": "token"}, {"loss_type": "bnpo"}),
        ({"normalise": "sequence"}, {"loss_type": "grpo"}),
        ({"normalise": "constant"}, {"loss_type": "dr_grpo"}),
        ({"normalise": "token", "beta": 0.3}, {"loss_type": "bnpo", "beta": 0.3, "use_bias_correction_kl": False}),
        (
            {"normalise": "sequence", "epsilon_high": 0.28, "temperature": 0.7},
            {"loss_type": "grpo", "epsilon_high": 0.28, "temperature": 0.7},
        ),
    ],
)
def test_the_loss_and_the_gradients_of_grpo_are_those_of_trl(ours, theirs, their_grpo, bases, tmp_path):
    trainer = their_grpo(**theirs)
    names = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in sorted(names):
            names[name].copy_(torch.randn(names[name].shape, generator=generator) * 0.1)
    trainer.model.save_pretrained(tmp_path / "first")
    engine = open_engine(load_base(bases / BASE, "cpu", "fp32"), LoraShape(rank=8, alpha=16), SEED)
    engine.load_adapter(tmp_path / "first")
    spec = GrpoSpec(grader=StringCheck(reference="x"), group_size=2, max_new_tokens=6, updates_per_batch=2, **ours)
    # Old log-probabilities are a little off the present ones, so that some tokens meet the bound.
    noise = torch.Generator().manual_seed(4)
    answers = []
    for question, answer, advantage in ANSWERS:
        packed = Grpo._packed(
            SimpleNamespace(spec=spec), [Row([*question, *answer], range(len(question) - 1, len(question) + len(answer) - 1))]
        )
        now_N = engine.logprobs(packed, training=False)
        with engine.adapter_off():
            base_N = engine.logprobs(packed, training=False)
        old_N = now_N + 0.3 * torch.randn(len(now_N), generator=noise)
        answers.append(Answer([*question, *answer], len(question), old_N.tolist(), 0.0, advantage, base_N.tolist()))

    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, padded(answers))
    loss.backward()

    method = Grpo(Rows(), [], spec, str, frozenset(), 64)
    method._round = _Round(0, answers)
    total = 0.0
    for batch in method.batches(engine, Step([]), PassLimits(2, 4096)):
        leaf_N = engine.logprobs(batch.packed, training=True).requires_grad_()
        share = batch.loss(leaf_N)
        engine.backward(*torch.autograd.grad(share, leaf_N))
        total += share.item()
    assert total == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    assert method.metrics()["clipped"] > 0
    expected = {name.removeprefix("base_model.model.").replace(".default", ""): weight.grad for name, weight in names.items()}
    assert expected.keys() == engine.parameters.keys()
    for name, parameter in engine.parameters.items():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-6), name


def padded(answers) -> dict[str, torch.Tensor]:
    """A batch as TRL pads it: questions on the left, answers on the right."""
    asked, said = max(answer.answer_at for answer in answers), max(len(answer.old_logps) for answer in answers)

    def left(answer, values):
        return [0] * (asked - answer.answer_at) + values

    def right(answer, values):
        return [*values, *[0] * (said - len(answer.old_logps))]

    def tensor(make):
        return torch.tensor([make(answer) for answer in answers])

    return {
        "prompt_ids": tensor(lambda a: left(a, list(a.ids[: a.answer_at]))),
        "prompt_mask": tensor(lambda a: left(a, [1] * a.answer_at)),
        "completion_ids": tensor(lambda a: right(a, a.ids[a.answer_at :])),
        "completion_mask": tensor(lambda a: right(a, [1] * len(a.old_logps))),
        "advantages": tensor(lambda a: a.advantage),
        "old_per_token_logps": tensor(lambda a: right(a, a.old_logps)),
        "ref_per_token_logps": tensor(lambda a: right(a, a.base_logps)),
        "num_items_in_batch": torch.tensor(sum(len(answer.old_logps) for answer in answers)),
    }
