"""Real files of public repositories are read whole. Set LUTHIER_SHARED_DATA to the folder that holds them; none is shipped."""

import os
from pathlib import Path

import pytest

from luthier.datasets.mapping import parse_mapping

from .manifests import report_of

_SHARED = Path(os.environ.get("LUTHIER_SHARED_DATA", "does/not/exist"))
# (file, mapping, format, kind, rows, rows without any error)
FILES = [
    ("classification/banking77_train.csv", "label=category", "csv", "labelled", 10_003, 10_003),
    ("classification/banking77_test.csv", "label=category", "csv", "labelled", 3_080, 3_080),
    ("math/gsm8k_train.jsonl", "prompt=question,completion=answer", "jsonl", "prompt_completion", 7_473, 7_473),
    ("math/gsm8k_test.jsonl", "prompt=question", "jsonl", "prompts", 1_319, 1_319),
    ("math/svamp__SVAMP.json", "prompt=Body+Question,completion=Answer", "json", "prompt_completion", 1_000, 1_000),
    ("preference/hh_harmless_base_test.jsonl.gz", None, "jsonl", "whole_pairs", 2_312, 2_308),
    ("chat/fastchat__dummy_conversation.json", None, "json", "sharegpt", 500, 500),
    ("chat/llama-factory__v1_sft_demo.jsonl", None, "jsonl", "chat", 500, 500),
    ("tools/llama-factory__glaive_toolcall_en_demo.json", None, "json", "sharegpt", 300, 300),
    ("tools/openai-cookbook__drone_training.jsonl", None, "jsonl", "chat", 103, 103),
    ("pretrain/llama-factory__wiki_demo.txt", None, "text", "text", 30, 30),
    ("derived/sft_chat_300.parquet", None, "parquet", "chat", 300, 300),
    ("derived/mnist_8000_train.csv.gz", None, "csv", "images", 8_000, 8_000),
    ("derived/clinc150_small_train.csv", None, "csv", "labelled", 7_500, 7_500),
    ("derived/dpo_openai_hh_harmless_500.jsonl", None, "jsonl", "openai_pairs", 500, 500),
    ("derived/dpo_trl_hh_harmless.jsonl", None, "jsonl", "pairs", 2_299, 2_299),
    ("derived/grpo_openai_rft_gsm8k_200.jsonl", None, "jsonl", "openai_prompts", 200, 200),
    ("derived/sft_tools_glaive.jsonl", None, "jsonl", "chat", 172, 172),
]

pytestmark = pytest.mark.skipif(not (_SHARED / "math").is_dir(), reason="LUTHIER_SHARED_DATA names no folder with data")


@pytest.mark.parametrize(("file", "mapping", "name", "kind", "rows", "usable"), FILES, ids=[case[0] for case in FILES])
def test_a_real_file_is_read_whole(file, mapping, name, kind, rows, usable):
    report = report_of(_SHARED / file, parse_mapping(mapping) if mapping else None)
    assert (report.format, report.schema_name, report.rows, report.usable_rows) == (name, kind, rows, usable)


def test_of_hh_rlhf_thirteen_rows_are_found_fault_with():
    report = report_of(_SHARED / "preference" / "hh_harmless_base_test.jsonl.gz")
    faults = {finding.line for finding in report.findings if finding.code in {"empty_content", "roles", "prompts_differ"}}
    assert report.rows - len(faults) == 2_299
