"""Step by step the same losses as TRL's SFTTrainer: same base, same first adapter, same rows in the same order."""

import os
import warnings

import pytest
import torch

from luthier.datasets.formats import Example
from luthier.datasets.rendering import Renderer
from luthier.jobs.spec import RunSpec
from luthier.modeling.load import load_base
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape
from luthier.training.batches import order_of
from luthier.training.plan import Fixed
from luthier.training.tokenising import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what other libraries deprecate in each other

RATE, SEED, STEPS = 0.01, 42, 6
ROWS = [
    (f"{question} Please tell me {'very ' * (index % 4)}soon.", f" {answer}, I am {'quite ' * (index % 3)}sure")
    for index, (question, answer) in enumerate(
        [("What broke", "the app"), ("Who pays", "billing"), ("Where is it", "in the menu"), ("Why", "no reason")] * 6
    )
]


@pytest.fixture(scope="module")
def theirs(bases, tmp_path_factory):
    """TRL's losses, gradient norms and rates, and the adapter that it began with."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    folder = tmp_path_factory.mktemp("trl")
    base = bases / "luthier--tiny" / "1"
    rows = [ROWS[index] for index in order_of(SEED, 0, len(ROWS))]
    config = SFTConfig(
        output_dir=str(folder / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        weight_decay=0.01,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        max_length=256,
        logging_steps=1,
        logging_first_step=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
        seed=SEED,
    )
    seen = []

    class Log(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **details):
            if logs and "loss" in logs:
                seen.append((float(logs["loss"]), float(logs["grad_norm"]), float(logs["learning_rate"])))

    tokens = AutoTokenizer.from_pretrained(base)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt, "completion": completion} for prompt, completion in rows]),
        processing_class=tokens,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Log()],
    )
    trainer.model.save_pretrained(folder / "first")
    first_row = [int(token) for token in trainer.train_dataset[0]["input_ids"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return seen, folder / "first", first_row, rows


def test_the_rows_have_the_same_tokens(theirs, bases):
    _, _, first_row, rows = theirs
    renderer = Renderer.load(bases / "luthier--tiny" / "1")
    assert renderer.render(Example(prompt=rows[0][0], completion=rows[0][1])).ids == first_row


def test_every_step_has_the_loss_the_gradient_and_the_rate_of_trl(theirs, bases, bench):
    expected, first, _, _ = theirs
    base = bases / "luthier--tiny" / "1"
    engine = PlainEngine(load_base(base, "cpu", "fp32"), LoraShape(rank=8, alpha=16), SEED)
    engine.load_adapter(first)
    train = {"max_steps": STEPS, "learning_rate": RATE, "warmup_steps": 2, "weight_decay": 0.01, "gradient_accumulation": 2}
    bench.spec = RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": "d", "seed": SEED, "train": train})
    bench.fixed = Fixed(2, 4096, 1, "cpu", "fp32")
    examples = [Example(prompt=prompt, completion=completion) for prompt, completion in ROWS]
    bench.rows = rows_of("sft", examples, Renderer.load(base), 256).rows
    bench.attempt(engine).run()
    ours = [step[1:] for event in bench.job.events() if event.kind == "step" for step in event.data["steps"]]
    assert len(ours) == len(expected) == STEPS
    for (loss, rate, norm), (their_loss, their_norm, their_rate) in zip(ours, expected, strict=True):
        assert loss == pytest.approx(their_loss, abs=2e-5)
        assert norm == pytest.approx(their_norm, rel=1e-4)
        assert rate == pytest.approx(their_rate, abs=1e-9)
