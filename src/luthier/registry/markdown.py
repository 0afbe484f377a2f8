"""A model card as Markdown, with the front matter that model hubs read."""

from __future__ import annotations

import yaml

from luthier.registry.types import ModelCard, Stage

_PEFT = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, "weights")  # the folder that `model download` wrote
tokenizer = AutoTokenizer.from_pretrained("weights")
```"""
_CLASSIFIER = """```bash
model download {ref}
```"""


def markdown(card: ModelCard, stage: Stage) -> str:
    """The whole page."""
    front = yaml.safe_dump(_front(card), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---", f"# {_safe(card.name)}", _safe(card.description), *_warnings(card), *_facts(card, stage)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front(card: ModelCard) -> dict[str, object]:
    classifier = card.lineage.method == "classifier"
    told: dict[str, object] = {
        "base_model": None if classifier else card.base_model,
        "library_name": None if classifier else "peft",
        "language": list(card.language),
        "pipeline_tag": "text-classification" if card.task == "classification" else card.task,
        "tags": list(card.tags),
        "datasets": [card.lineage.dataset],
    }
    return {name: value for name, value in told.items() if value}


def _warnings(card: ModelCard) -> list[str]:
    return ["\n".join(f"> **Note:** {_safe(warning)}" for warning in card.warnings)]


def _facts(card: ModelCard, stage: Stage) -> list[str]:
    made, ref = card.lineage, f"{card.name}@{card.version}"
    base = f"{card.base_model} at {made.base_commit or made.base_revision}"
    lineage = [
        ("Model", card.id),
        ("Version", f"{card.version}, stage {stage.value}"),
        ("Base", base),
        ("Method", f"{made.method}, seed {made.seed}"),
        ("Dataset", f"{made.dataset} (sha256 {made.dataset_sha256})"),
        ("Validated on", made.validation_dataset or "nothing"),
        ("Job", made.job_id),
        ("Made", card.created_at.isoformat(timespec="seconds")),
    ]
    load = _CLASSIFIER.format(ref=ref) if made.method == "classifier" else _PEFT.format(base=card.base_model)
    return ["## Lineage", _table(("", ""), lineage), *_measured(card), "## How to load it", load]


def _measured(card: ModelCard) -> list[str]:
    evaluation = card.evaluations[0].evaluation if card.evaluations else card.evaluation
    if evaluation is None:
        return []
    sides = [{**scores.metrics, **scores.model_dump(exclude={"metrics"})} for scores in (evaluation.base, evaluation.tuned)]
    names = [name for name in dict.fromkeys((*sides[0], *sides[1])) if any(side.get(name) is not None for side in sides)]
    lines = [(name, *("" if side.get(name) is None else f"{side[name]:.4g}" for side in sides)) for name in names]
    on = f" ({card.evaluations[0].dataset})" if card.evaluations else ""
    return ["## Metrics", f"On {evaluation.rows} held-out rows{on}:", _table(("", "base", "tuned"), lines)]


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join(f"| {' | '.join(_safe(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _safe(text: str) -> str:
    """One line of plain words: nobody's description becomes a tag or a heading of the page."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
