"""A run before it is queued: is everything there that it names, will it fit, what will it take. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from luthier.accounts.quotas import Quotas
from luthier.accounts.service import Accounts
from luthier.accounts.types import Actor
from luthier.bases import classifiers
from luthier.bases.service import Bases
from luthier.bases.types import Base
from luthier.billing import rules as money
from luthier.billing.service import Billing
from luthier.database import Database
from luthier.datasets import kinds
from luthier.datasets.service import Datasets
from luthier.datasets.types import Dataset
from luthier.errors import BudgetExceeded, DatasetNotReady, FieldInvalid, ForbiddenField, Gone, NotFound, WillNotFit
from luthier.graders.types import judges_of
from luthier.jobs import classifying, estimation, of_models
from luthier.jobs.approvals import ApprovalRule
from luthier.jobs.calibration import applied
from luthier.jobs.earlier import EarlierJobs, speed_of
from luthier.jobs.of_models import Models, Named
from luthier.jobs.sizes import size_of
from luthier.jobs.spec import OF_MODELS, RunSpec, Sources
from luthier.jobs.types import Estimate
from luthier.values import BaseSource, Source


@dataclass(frozen=True)
class JobServices:
    """The services that a job stands on, and when it waits for approval."""

    accounts: Accounts
    billing: Billing
    bases: Bases
    datasets: Datasets
    models: Models
    rule: ApprovalRule = field(default_factory=ApprovalRule)
    quotas: Quotas | None = None


@contextmanager
def _named_by(field_name: str) -> Generator[None]:
    """What is missing says which field of the spec named it."""
    try:
        yield
    except (NotFound, Gone, DatasetNotReady) as error:
        error.param = error.param or field_name
        raise


class Examiner:
    """Looks at runs. `served` names the hardware that an executor here can reach."""

    def __init__(self, database: Database, services: JobServices, served: frozenset[str]) -> None:
        self._billing = services.billing
        self._bases = services.bases
        self._datasets = services.datasets
        self._models = services.models
        self._earlier = EarlierJobs(database)
        self._served = served

    def examined(self, actor: Actor, spec: RunSpec) -> tuple[RunSpec, Estimate]:
        """The spec with everything in it pinned, and what it will take.

        Raises: NotFound, Gone, DatasetNotReady, ModelNotReady, ModelNotAllowed, FieldInvalid, ForbiddenField.
        """
        if spec.sources is not None:
            raise _ours()
        if spec.kind in OF_MODELS:
            return self._examined_of_model(actor, spec)
        base = classifiers.source_of(spec.base_model) if not spec.has_base else self._bases.get(spec.base_model)
        price = self._billing.price(spec.hardware)
        with _named_by("dataset"):
            dataset = self._datasets.ready(actor, spec.dataset)
        with _named_by("validation_dataset"):
            validation = self._datasets.ready(actor, spec.validation_dataset) if spec.validation_dataset else None
        _check_serves(spec, dataset, "dataset")
        if validation is not None:
            _check_serves(spec, validation, "validation_dataset")
        if spec.method == "classifier":
            classifying.check(spec, dataset, validation)
        test = self._earlier.fit_test(actor, spec, base.id)
        measured = self._earlier.measured(actor, base.id, price.hardware) or speed_of(test)
        correction = self._earlier.correction(actor, spec, base.id)
        judges = self._judges(spec)
        if isinstance(base, BaseSource):
            estimate = classifying.estimate(spec, dataset, price, measured)
        else:
            facts = estimation.Facts(
                spec=spec,
                base=base,
                data=size_of(dataset),
                validation=size_of(validation) if validation else None,
                price=price,
                measured=measured,
                base_is_here=self._bases.ready(base),
                judges=judges,
                memory_factor=correction.memory,
            )
            estimation.check(facts, estimation.plan_of(spec, facts.data.rows))
            estimate = estimation.estimate(facts)
        estimate = applied(estimate, correction, price, test)
        sources = Sources(
            dataset=self._datasets.source(dataset),
            validation_dataset=self._datasets.source(validation) if validation else None,
            base=base if isinstance(base, BaseSource) else self._pinned(base),
            judges={name: self._pinned(judge) for name, judge in judges.items() if judge.id != base.id},
        )
        # The id, not the alias that was typed: the registry and the measured speeds look for it.
        frozen = spec.model_copy(update={"sources": sources, "base_model": base.id})
        leaks = self._leaks(actor, dataset, validation) if validation else ()
        return frozen, self._with_advice(estimate.model_copy(update={"warnings": leaks}))

    def waits(self, actor: Actor, spec: RunSpec) -> bool:
        """Whether a file that it names is still being checked. Raises: NotFound, Gone."""
        waits = False
        for field_name in ("dataset", "validation_dataset"):
            dataset_id = getattr(spec, field_name)
            with _named_by(field_name):
                waits |= bool(dataset_id) and self._datasets.get(actor, dataset_id).state == "validating"
        return waits

    def before_data(self, spec: RunSpec) -> tuple[RunSpec, Estimate]:
        """What can be said of a run before its data was checked: the spec with its base's own id, and no numbers yet.

        Raises: ModelNotAllowed, BaseUnavailable, FieldInvalid, ForbiddenField.
        """
        if spec.sources is not None:
            raise _ours()
        base_id = spec.base_model if not spec.has_base else self._bases.get(spec.base_model).id
        self._check_served(spec)
        return spec.model_copy(update={"base_model": base_id}), estimation.unknown(self._billing.price(spec.hardware))

    def check(self, spec: RunSpec, estimate: Estimate) -> None:
        """Whether it can run here within its own limits. Raises: WillNotFit, BudgetExceeded, FieldInvalid."""
        if not estimate.fits and spec.kind != "fit_test":  # which measures what the formula can only guess
            needed, there = estimate.memory.total_bytes / 1e9, (estimate.memory.available_bytes or 0) / 1e9
            message = f"This job needs about {needed:.1f} GB, but {estimate.hardware} has {there:.1f} GB."
            details = estimate.memory.model_dump()
            raise WillNotFit(message, hint=" ".join(estimate.advice), param="hardware", details=details)
        limit, cost = spec.max_cost_micro_usd, money.micro_usd(estimate.cost_usd)
        if limit is not None and cost > limit:
            raise BudgetExceeded(Decimal(estimate.cost_usd), Decimal(limit) / 1_000_000)
        if cost > money.MOST_MICRO_USD:
            most = money.MOST_MICRO_USD // 1_000_000
            raise FieldInvalid(
                f"This job would cost about ${Decimal(estimate.cost_usd):,.2f}; no more than ${most:,} can be held for one.",
                hint="Train for fewer steps, or look at the price of this hardware: `tune pricing`.",
                param="hardware",
            )
        self._check_served(spec)

    def _judges(self, spec: RunSpec) -> dict[str, Base]:
        """The bases that the grader asks, by its names for them. Raises: ModelNotAllowed, BaseUnavailable."""
        return {judge.model: self._bases.get(judge.model) for judge in (judges_of(spec.grpo.grader) if spec.grpo else ())}

    def _check_served(self, spec: RunSpec) -> None:
        if spec.hardware not in self._served:
            hint = f"Use one of: {', '.join(sorted(self._served))}. The price book lists more, for estimates."
            raise FieldInvalid("Nothing that runs here reaches this hardware.", hint=hint, param="hardware")

    def _leaks(self, actor: Actor, dataset: Dataset, validation: Dataset) -> tuple[str, ...]:
        """Rows of the validation data that are also trained on: what it measures is worth less by as many."""
        shared, lines = self._datasets.shared(actor, validation.id, dataset.id)
        if not shared.rows + shared.prompts:
            return ()
        where = f" (lines {', '.join(str(line) for line in lines[:5])}{', ...' if shared.rows > 5 else ''})" if lines else ""
        asked = f"; {shared.prompts:,} more ask what a row of it asks" if shared.prompts else ""
        return (f"{shared.rows:,} rows of the validation dataset{where} are rows of {shared.name}, too{asked}.",)

    def _pinned(self, base: Base) -> BaseSource:
        return self._bases.source(base).model_copy(update={"rendering_sha256": self._datasets.rendering_sha256(base)})

    def _examined_of_model(self, actor: Actor, spec: RunSpec) -> tuple[RunSpec, Estimate]:
        model = self._models.pinned(actor, spec.model or "")
        against = self._models.pinned(actor, spec.against) if spec.against else None
        named = Named(model, against, self._earlier.made_by(actor, model.job_id))
        spec = of_models.completed(spec, named)
        base, price = self._bases.get(model.base.id), self._billing.price(spec.hardware)
        dataset = self._datasets.ready(actor, spec.dataset) if spec.dataset else None
        if dataset is not None:
            _check_serves(spec, dataset, "dataset")
        estimation.check_quantization(spec, price)
        facts = of_models.Facts(
            spec=spec,
            named=named,
            base=base,
            data=size_of(dataset) if dataset else None,
            price=price,
            measured=self._earlier.measured(actor, base.id, price.hardware),
            arrival_s=estimation.arrival_s(base, here=self._bases.ready(base)),
        )
        sources = Sources(
            dataset=self._datasets.source(dataset) if dataset else None,
            validation_dataset=self._held_out(actor, named.made_by) if spec.kind == "export" else None,
            base=model.base,
            model=model,
            against=against,
        )
        correction = self._earlier.correction(actor, spec, base.id)
        estimate = applied(of_models.estimate(facts), correction, price)
        return spec.model_copy(update={"sources": sources}), self._with_advice(estimate)

    def _held_out(self, actor: Actor, made_by: RunSpec | None) -> Source | None:
        """The rows that a model was measured on by its training, where they are still there: its export is asked some of them."""
        if made_by is None or made_by.validation_dataset is None:
            return None
        try:
            return self._datasets.source(self._datasets.ready(actor, made_by.validation_dataset))
        except (NotFound, Gone, DatasetNotReady):
            return None

    def _with_advice(self, estimate: Estimate) -> Estimate:
        if estimate.fits:
            return estimate
        larger = estimation.larger_hardware(estimate.memory.total_bytes, self._billing.prices(), self._served)
        return estimate.model_copy(update={"advice": (*estimate.advice, *((larger,) if larger else ()))})


def _ours() -> ForbiddenField:
    return ForbiddenField("`sources` is set by the platform.", hint="Leave it out: name datasets by id.", param="sources")


def _check_serves(spec: RunSpec, dataset: Dataset, param: str) -> None:
    """Raises: FieldInvalid where the method cannot learn from these rows, or its grader misses a field in them."""
    report = dataset.report
    refused = kinds.refusal(report.schema_name if report else None, spec.method)
    if refused is not None:
        message, hint = refused
        raise FieldInvalid(message, hint=hint, param=param)
    there = report.item_fields if report else ()
    reads = spec.grpo.grader.item_names - set(there) if spec.grpo else frozenset[str]()
    if reads:
        known = ", ".join(f"`item.{name}`" for name in there[:8]) or "none"
        raise FieldInvalid(
            f"The grader reads `item.{min(reads)}`, which not every row of the dataset has.",
            hint=f"Fields that every row has: {known}. Change the grader, or give every row that field.",
            param=param,
        )
