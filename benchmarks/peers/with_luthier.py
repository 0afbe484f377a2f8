"""Our own trainer on a job directory, as a supervisor starts it; its journal ends each turn."""

from __future__ import annotations

from functools import partial
from typing import Any

from turns import Turns, settings

from luthier.training import __main__ as trainer
from luthier.training.journal import Journal, StepReport

turns = Turns()


class TakesTurns(Journal):
    """Tells the driver what it tells the job's owner, and waits."""

    tokens = 0

    def step(self, report: StepReport) -> None:
        super().step(report)
        seen, self.tokens = self.tokens, report.tokens_seen
        turns.done(report.loss, report.tokens_seen - seen)


def main() -> int:
    given: dict[str, Any] = settings()
    trainer.Journal = TakesTurns  # type: ignore[misc]
    if given["options"].get("engine") == "plain":
        from luthier.training import fitting

        # No field of a spec asks for it: which engine trains is the trainer's business.
        fitting.open_engine = partial(fitting.open_engine, prefer="plain")
    return trainer.main([given["job"], "--bases", given["bases"]])


if __name__ == "__main__":
    raise SystemExit(main())
