"""Constrained values that every face, spec and table shares: what they refuse is refused everywhere in the same way."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

T = TypeVar("T")

MAX_INT = 2**53
"""Above this JSON readers no longer agree on a number."""


def plain_text(text: str) -> str:
    """`text`, if it holds no control characters but newline and tab, and no lone surrogate. Raises: ValueError."""
    if any(ord(character) < 32 and character not in "\n\t" for character in text):
        raise ValueError("control characters are not allowed")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("this is not valid Unicode (a lone surrogate)") from None
    return text


def one_line(text: str) -> str:
    """`text`, if it is one line with no blanks around it. Raises: ValueError."""
    if "\n" in text or "\t" in text or text != text.strip():
        raise ValueError("one line, with no blanks around it")
    return text


def _whole_number(value: Any) -> Any:
    # JSON has one number type: 3.0 is 3, but 3.5 is no number of epochs, and true is no number at all.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(plain_text)]
Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(plain_text), AfterValidator(one_line)]
Whole = Annotated[int, BeforeValidator(_whole_number)]
Option = bool | int | float | Annotated[str, Field(max_length=200), AfterValidator(plain_text)]
"""The value of an option of a classifier, whatever it is called."""
USD_FORM = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"
MONTH_FORM = r"^20[0-9]{2}-(0[1-9]|1[0-2])$"
Usd = Annotated[str, Field(pattern=USD_FORM, description="Dollars as a decimal string.")]
"""An amount that somebody gives: below a billion."""
UsdSum = Annotated[str, Field(pattern=r"^-?(0|[1-9][0-9]*)(\.[0-9]{1,6})?$", description="Dollars as a decimal string.")]
"""An amount that was computed: as large as it comes out, and below 0 where more came back."""


def usd(micro_usd: int) -> str:
    """Micro-dollars as a decimal string: at least two places, at most six, exact.

    >>> usd(10_000_000), usd(1), usd(-1_230_000)
    ('10.00', '0.000001', '-1.23')
    """
    sign, whole = ("-" if micro_usd < 0 else ""), abs(micro_usd)
    places = f"{whole % 1_000_000:06d}"
    return f"{sign}{whole // 1_000_000}.{places[:2]}{places[2:].rstrip('0')}"


def micro_usd(dollars: str) -> int:
    """The other way round, exact.

    >>> micro_usd("0.75")
    750000
    """
    return int(Decimal(dollars) * 1_000_000)


def rfc3339(moment: datetime) -> str:
    """A moment in UTC as our JSON has it.

    >>> rfc3339(datetime.fromisoformat("2026-11-21T12:00:00+00:00"))
    '2026-11-21T12:00:00Z'
    """
    return moment.isoformat().replace("+00:00", "Z")


class Frozen(BaseModel):
    """A value: strict types, no unknown fields, no NaN, never changed after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class Source(Frozen):
    """A file that a trainer fetches, pinned by its content. Filled in by the platform at submit."""

    id: str
    url: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def _absent(value: object) -> bool:
    return value is None


class BaseSource(Frozen):
    """A base model at one exact revision. Filled in by the platform at submit."""

    id: str
    revision: str
    url: str = Field(description="`luthier:tiny` is built on the spot, `hub:<id>` is fetched from the hub.")
    rendering_sha256: str | None = Field(
        default=None,
        # Left out where it is not known: a spec without it hashes as it did before there was one.
        exclude_if=_absent,
        description="Of tokenizer, template, end-of-turn and rules, where the base was on the machine. Another one is refused.",
    )


class ModelFile(Frozen):
    """One file of a model's weights folder, or of what was exported from it."""

    name: str
    bytes: int
    sha256: str


class ModelSource(Frozen):
    """A tuned model, each of its files pinned by its content. Filled in by the platform at submit."""

    id: str
    name: str = Field(description="As people write it: `name@3`.")
    job_id: str = Field(description="The job that made it.")
    method: str
    base: BaseSource
    url: str = Field(description="The folder that holds the files.")
    files: Annotated[tuple[ModelFile, ...], Field(strict=False)]


class Page(BaseModel, Generic[T]):
    """One page of a list, newest first. Pass `next_cursor` back as `after` for the next one."""

    data: list[T]
    next_cursor: str | None = None
