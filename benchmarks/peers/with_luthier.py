"""Our own trainer on job directories, as a supervisor starts it; its journal ends each turn."""

from __future__ import annotations

from functools import partial
from typing import Any

from turns import Turns, settings

from luthier.training import __main__ as trainer
from luthier.training.journal import Journal, StepReport

given: dict[str, Any] = settings()
turns = Turns()
told: dict[int, tuple[float, int]] = {}
"""Loss and tokens of the members of a gang that have done this step, by place."""
members: list[TakesTurns] = []


class TakesTurns(Journal):
    """Tells the driver what it tells the job's owner. When the last member of the gang has done the step, all wait."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.place, self.tokens = len(members), 0
        members.append(self)

    def step(self, report: StepReport) -> None:
        super().step(report)
        told[self.place] = (report.loss, report.tokens_seen - self.tokens)
        self.tokens = report.tokens_seen
        if len(told) == len(given["jobs"]):
            losses, tokens = zip(*(told[place] for place in sorted(told)), strict=True)
            told.clear()
            turns.done(list(losses), sum(tokens))


def main() -> int:
    trainer.Journal = TakesTurns  # type: ignore[misc]
    if given["options"].get("engine") == "plain":
        from luthier.training import fitting

        # No field of a spec asks for it: which engine trains is the trainer's business.
        fitting.open_engine = partial(fitting.open_engine, prefer="plain")
    return trainer.main([*given["jobs"], "--bases", given["bases"]])


if __name__ == "__main__":
    raise SystemExit(main())
