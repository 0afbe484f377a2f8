"""TRL's `SFTTrainer` on the rows as tokens."""

from __future__ import annotations

import json
from pathlib import Path

from peft import LoraConfig
from transformers import AutoTokenizer
from transformers_turns import TakesTurns
from trl import SFTConfig, SFTTrainer
from turns import settings

from datasets import Dataset


def main() -> None:
    given = settings()
    options = dict(given["options"])
    passes = options.pop("passes", 1)
    model = given["model"]
    with Path(given["tokens"]).open("rb") as lines:
        rows = [json.loads(line) for line in lines]
    arguments = {
        "output_dir": given["work"],
        "per_device_train_batch_size": given["rows_per_step"] // passes,
        "gradient_accumulation_steps": passes,
        "learning_rate": given["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_steps": given["steps"],
        "seed": given["seed"],
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**arguments | options),
        train_dataset=Dataset.from_list([{"input_ids": row["ids"], "labels": row["labels"]} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=given["rank"], lora_alpha=given["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[TakesTurns(passes)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
