"""LLaMA-Factory's SFT on the rows as chats, with a template of its own kind that writes the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

from llamafactory.data.formatter import EmptyFormatter, StringFormatter
from llamafactory.data.template import register_template
from llamafactory.train.tuner import run_exp
from transformers_turns import TakesTurns
from turns import settings


def main() -> None:
    given = settings()
    options = dict(given["options"])
    passes = options.pop("passes", 1)
    data = Path(given["chats"])
    work = Path(given["work"])
    columns = {"messages": "messages"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {"rows": {"file_name": str(data), "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (work / "dataset_info.json").write_text(json.dumps(info), "utf-8")
    register_template(
        name="benchmark",
        format_user=StringFormatter(slots=["<|im_start|>user\n{{content}}<|im_end|><|im_start|>assistant\n"]),
        format_assistant=StringFormatter(slots=["{{content}}<|im_end|>"]),
        format_prefix=EmptyFormatter(slots=[]),
    )
    arguments = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": given["model"],
        "finetuning_type": "lora",
        "lora_rank": given["rank"],
        "lora_alpha": given["alpha"],
        "lora_dropout": 0.0,
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(work),
        "template": "benchmark",
        "disable_shuffling": True,
        "output_dir": str(work / "out"),
        "per_device_train_batch_size": given["rows_per_step"] // passes,
        "gradient_accumulation_steps": passes,
        "learning_rate": given["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_steps": given["steps"],
        "seed": given["seed"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    run_exp(arguments | options, callbacks=[TakesTurns(passes)])


if __name__ == "__main__":
    main()
