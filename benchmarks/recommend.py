"""Recommend over 20,000 cards, end to end through the REST app: p50 and p95 of sentences that differ. Goal: p95 under 50 ms.

    python -m benchmarks.recommend [--cards 20000] [--asked 200] [--lexical]

Without the weights of all-MiniLM-L6-v2, or with `--lexical`, words are compared. Vectors of cards are random directions: how long
a comparison takes does not depend on where they point. The question itself goes through the real embedder.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import struct
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import facts
from starlette.testclient import TestClient

from luthier import ids, wiring
from luthier.backends.embedders import minilm
from luthier.faces.rest.app import create_app
from luthier.registry import search_rules
from luthier.registry.index_store import ModelIndexRow
from luthier.registry.rows import row_of
from luthier.registry.types import Lineage, ModelCard, Stage, StoredModel
from luthier.settings import Settings

RESULTS = Path(__file__).parent / "results"
TOPICS = ["contracts", "invoices", "cats", "recipes", "SQL", "poems", "tickets", "patents", "lessons", "tests", "weather", "maps"]
DEEDS = ["summarise", "translate", "classify", "answer", "rewrite", "extract", "rank", "explain"]
TONGUES = ["English", "French", "German", "Chinese", "Spanish"]


def a_sentence(chance: random.Random) -> str:
    return f"{chance.choice(DEEDS)} {chance.choice(TOPICS)} and {chance.choice(TOPICS)} in {chance.choice(TONGUES)}"


def a_card(number: int, chance: random.Random) -> ModelCard:
    job_id = ids.new(ids.JOB)
    made = Lineage(job_id=job_id, base_revision="1", dataset="ds_1", dataset_sha256="0" * 64, method="sft", seed=number)
    now = datetime.now(UTC)
    about = {"description": f"Made to {a_sentence(chance)}.", "tags": ("lora", "sft", chance.choice(TOPICS))}
    language = (chance.choice(TONGUES),)
    card = {"id": f"model_{job_id[4:]}", "name": f"m{number}", "version": "1", "base_model": "luthier/tiny", "language": language}
    return ModelCard.model_validate({**card, **about, "lineage": made, "created_at": now})


def fill(platform: wiring.Platform, tenant_id: str, cards: int, *, lexical: bool) -> None:
    chance = random.Random(7)
    with platform.database.write(tenant_id) as session:
        for number in range(cards):
            vector = [chance.gauss(0, 1) for _ in range(384)]
            length = sum(each * each for each in vector) ** 0.5
            unit = tuple(round(each / length, 6) for each in vector)
            card = a_card(number, chance).model_copy(update={"embedding": None if lexical else unit})
            about = {"id": card.id, "tenant_id": tenant_id, "created_by": "user_1", "stage": Stage.NONE, "files": ()}
            times = {"created_at": card.created_at, "updated_at": card.created_at}
            session.add(row_of(StoredModel.model_validate({**about, "card": card, **times})))
            session.flush()
            session.add(
                ModelIndexRow(
                    tenant_id=tenant_id,
                    model_id=card.id,
                    facets=search_rules.facets_of(card),
                    words=search_rules.words_of(card),
                    embedder=None if lexical else "minilm",
                    embedding=None if lexical else struct.pack("384f", *unit),
                )
            )


def measured(cards: int, asked: int, *, lexical: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        platform = wiring.build(Settings(data=Path(folder), limit_requests="", limit_changes=""))
        key = platform.accounts.first_start()
        fill(platform, platform.accounts.authenticate(key).tenant_id, cards, lexical=lexical)
        client, chance, times, by = TestClient(create_app(platform), headers={"x-api-key": key}), random.Random(8), [], ""
        for number in range(asked + 1):
            start = time.perf_counter()
            answer = client.post("/models/recommend", json={"text": a_sentence(chance)})
            took_ms = (time.perf_counter() - start) * 1000
            answer.raise_for_status()
            by = answer.json()["by"]
            if number == 0:
                first_ms = took_ms
            else:
                times.append(took_ms)
        platform.close()
    alone = [] if by == "lexical" else embedded(asked)
    cuts = statistics.quantiles(times, n=20)
    floor = {"embedding_p50_ms": statistics.median(alone)} if alone else {}
    figures = {**floor, "first_ms": first_ms, "p50_ms": statistics.median(times), "p95_ms": cuts[18], "max_ms": max(times)}
    return {"cards": cards, "asked": asked, "by": by, **{name: round(value, 1) for name, value in figures.items()}}


def embedded(asked: int) -> list[float]:
    """Milliseconds of as many sentences in the embedder alone: no question can be answered sooner."""
    folder = minilm.weights()
    if folder is None:
        return []
    embedder, chance, times = minilm.MiniLm(folder), random.Random(9), []
    for _ in range(asked + 1):
        start = time.perf_counter()
        embedder.embed([a_sentence(chance)])
        times.append((time.perf_counter() - start) * 1000)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Recommend over many cards.")
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--lexical", action="store_true", help="Cards without vectors: for a place without the weights.")
    given = parser.parse_args()
    record = {"machine": facts.machine(), "recommend": measured(given.cards, given.asked, lexical=given.lexical)}
    print(json.dumps(record, indent=2))
    target = RESULTS / facts.machine_name()
    target.mkdir(parents=True, exist_ok=True)
    name = f"recommend-{record['recommend']['by']}-{datetime.now(UTC):%Y-%m-%d}.json"
    (target / name).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
