"""What `luthier/tiny` reads: Python's help, JSON, and chats that spot details in messages.

The chats are an exercise in looking back at a message, for details that the example's rows do not
ask for: who greets, who signs, which day. What they do ask for (intent, product, urgency, team)
stays unknown to the base, so whatever a fine-tuned model knows of it, it learned from the rows.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics  # what `help()` shows: English that every Python carries

INSTRUCTION = "Spot the details. Answer with JSON only."
CHATS_PER_EPOCH = 560
OBJECTS_PER_EPOCH = 60
# More of it makes a better reader of Python's manual, and a slower learner of short chats.
HELP_SHARE = 1 / 16
PARAGRAPHS_TOGETHER = 2
NAMES = ("Anna", "Ben", "Chen", "Dora", "Emil", "Fatima", "George", "Hana", "Ivan", "Julia")

DETAILS: dict[str, dict[str, str]] = {
    "greeting": {
        "hi there": "there",
        "good morning": "morning",
        "dear support": "dear",
        "hello team": "team",
        "hello": "hello",
        "hi,": "hi",
    },
    "name": {name.lower(): name for name in NAMES},
    "day": {
        "monday": "Monday",
        "tuesday": "Tuesday",
        "friday": "Friday",
        "march": "March",
        "tonight": "tonight",
        "today": "today",
        "yesterday": "yesterday",
    },
    "detail": {
        "customer number": "number",
        "team of": "people",
        "been with": "years",
        "wrote": "again",
        "school": "school",
        "colleague told": "colleague",
        "premium": "premium",
    },
    "closing": {"thank": "thanks", "best,": "best", "kind regards": "regards", "cheers": "cheers"},
}
"""For each key of an answer: the words that give it a value; the first that occur win."""


@dataclass(frozen=True)
class Corpus:
    """The texts that an epoch is drawn from."""

    passages: list[str]
    sentences: list[str]
    objects: list[str]

    @classmethod
    def read(cls, path: Path) -> "Corpus":
        """The shipped corpus.txt (sentences and JSON objects, one a line) and Python's help."""
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(
            passages=list(help_passages()),
            sentences=[line for line in lines if not line.startswith("{")],
            objects=[line for line in lines if line.startswith("{")],
        )

    def epoch(self, rng: random.Random) -> list[str]:
        """Fresh chats, some JSON and some help, in random order."""
        chats = [self.chat(rng) for _ in range(CHATS_PER_EPOCH)]
        passages = rng.sample(self.passages, int(len(self.passages) * HELP_SHARE))
        documents = [*passages, *rng.sample(self.objects, OBJECTS_PER_EPOCH), *chats]
        rng.shuffle(documents)
        return documents

    def chat(self, rng: random.Random) -> str:
        """One to four sentences of different messages, and four of their details."""
        message = " ".join(rng.sample(self.sentences, rng.randint(1, 4)))
        details = {key: spot(message, key) for key in rng.sample(list(DETAILS), 4)}
        answer = json.dumps(details, separators=(",", ":"))
        turns = (("system", INSTRUCTION), ("user", message), ("assistant", answer))
        return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def help_passages() -> Iterator[str]:
    """Python's help, a few paragraphs at a time, by topic."""
    for _, topic in sorted(topics.items()):
        paragraphs = re.split(r"\n\s*\n", topic.strip())
        for start in range(0, len(paragraphs), PARAGRAPHS_TOGETHER):
            yield "\n\n".join(paragraphs[start : start + PARAGRAPHS_TOGETHER])


def spot(message: str, key: str) -> str:
    """The detail of this key, or "none".

    >>> spot("Good morning, I wrote on Tuesday.", "day")
    'Tuesday'
    """
    lower = message.lower()
    for words, value in DETAILS[key].items():
        if re.search(r"\b" + re.escape(words), lower):
            return value
    return "none"
