"""What is asked under /v1/fine_tuning, and the run that it means."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from luthier.errors import FieldInvalid, LuthierError
from luthier.faces.rest.openai.routes import Lenient
from luthier.faces.rest.openai.shapes import USUAL_LEARNING_RATE, their_param
from luthier.faces.rest.validation import refused
from luthier.graders import Grader
from luthier.jobs.spec import GrpoSpec, RunSpec
from luthier.values import Name, Text, Whole

_GROUP = GrpoSpec.model_fields["group_size"].default


class Hyperparameters(Lenient):
    """How long and how fast. `auto` leaves it to the platform."""

    n_epochs: Annotated[Whole, Field(ge=1, le=1000)] | Literal["auto"] | None = None
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] | Literal["auto"] | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | Literal["auto"] | None = Field(
        default=None, description=f"Times {USUAL_LEARNING_RATE:g}. `auto`, or nothing: by the width of the base."
    )


class DpoHyperparameters(Hyperparameters):
    """Those of supervised, and how close to stay to the base."""

    beta: Annotated[float, Field(gt=0, le=2)] | Literal["auto"] | None = None


class ReinforcementHyperparameters(Hyperparameters):
    """Those of supervised, and how many answers are tried."""

    compute_multiplier: Annotated[float, Field(gt=0, le=32)] | Literal["auto"] | None = Field(
        default=None, description=f"Times {_GROUP} answers to each prompt."
    )
    eval_interval: Annotated[Whole, Field(ge=1)] | Literal["auto"] | None = Field(
        default=None, description="Steps between two measurements."
    )


class SupervisedMethod(Lenient):
    hyperparameters: Hyperparameters | None = None


class DpoMethod(Lenient):
    hyperparameters: DpoHyperparameters | None = None


class ReinforcementMethod(Lenient):
    grader: Grader = Field(description="What an answer is worth.")
    hyperparameters: ReinforcementHyperparameters | None = None


class Method(Lenient):
    """How it learns, with the section of that name."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="after")
    def _has_a_grader(self) -> Method:
        if self.type == "reinforcement" and self.reinforcement is None:
            raise ValueError("the method reinforcement needs its section with a `grader`")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        section = getattr(self, self.type)
        return section.hyperparameters if section else None


class JobCreate(Lenient):
    """A run. `hardware` is ours: a row of the price book."""

    model: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="Id or alias of an allowed base model.")
    training_file: Annotated[str, Field(min_length=1, max_length=200)]
    validation_file: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(default=None, description="The older place of them.")
    suffix: Annotated[Name, Field(max_length=64)] | None = Field(default=None, description="Name of the model that comes out.")
    seed: Annotated[Whole, Field(ge=0, le=2**32 - 1)] | None = None
    metadata: dict[Text, Text] | None = None
    hardware: str | None = Field(default=None, description="Not OpenAI's: where it trains, `local-cpu` by default.")


def run_of(asked: JobCreate) -> RunSpec:
    """The run that is meant. Raises: FieldInvalid."""
    method = asked.method or Method(type="supervised")
    numbers = method.hyperparameters or asked.hyperparameters or Hyperparameters()
    spec: dict[str, Any] = {
        "base_model": asked.model,
        "dataset": asked.training_file,
        "validation_dataset": asked.validation_file,
        "name": asked.suffix,
        "train": _train(numbers),
        **_section(method, numbers),
        **{name: value for name in ("seed", "metadata", "hardware") if (value := getattr(asked, name)) is not None},
    }
    try:
        return RunSpec.model_validate(spec)
    except ValidationError as error:
        raise refused(error.errors(include_url=False, include_context=False, include_input=False), model=RunSpec) from None


@contextmanager
def in_their_words() -> Generator[None]:
    """What is refused inside names the field as it was sent here."""
    try:
        yield
    except LuthierError as error:
        error.param = their_param(error.param)
        raise


def _train(numbers: Hyperparameters) -> dict[str, Any]:
    times = numbers.learning_rate_multiplier
    train: dict[str, Any] = {
        "epochs": numbers.n_epochs or "auto",
        "batch_size": numbers.batch_size or "auto",
        "learning_rate": "auto",
    }
    if isinstance(times, float):
        train["learning_rate"] = min(1.0, USUAL_LEARNING_RATE * times)
    if isinstance(numbers, ReinforcementHyperparameters) and isinstance(numbers.eval_interval, int):
        train["eval_steps"] = numbers.eval_interval
    return train


def _section(method: Method, numbers: Hyperparameters) -> dict[str, Any]:
    if method.type == "dpo":
        beta = numbers.beta if isinstance(numbers, DpoHyperparameters) else None
        return {"method": "dpo", "dpo": {"beta": beta} if isinstance(beta, float) else {}}
    if method.reinforcement is not None and method.type == "reinforcement":
        times = numbers.compute_multiplier if isinstance(numbers, ReinforcementHyperparameters) else None
        group = max(2, round(_GROUP * times)) if isinstance(times, float) else _GROUP
        return {"method": "grpo", "grpo": {"grader": method.reinforcement.grader, "group_size": group}}
    return {"method": "sft"}


def checked_purpose(purpose: str | None) -> None:
    """Raises: FieldInvalid for what no training reads."""
    if purpose != "fine-tune":
        said = "is missing" if purpose is None else "is not served here"
        raise FieldInvalid(f"The `purpose` {said}: files are for training.", hint="Send `purpose=fine-tune`.", param="purpose")
