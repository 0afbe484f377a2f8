"""Price books: the shipped one, and the file of those who run the server. Pure but for reading."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from luthier.errors import SetupError
from luthier.values import Frozen, Usd, micro_usd

_SHIPPED = Path(__file__).parent / "prices.json"
_HINT = 'It is a list as {"hardware": "A100", "hourly_usd": "10.00"}; docs/how-to/read-the-bill.md has all of it.'


class Entry(Frozen):
    """An hour of one kind of hardware."""

    hardware: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    hourly_usd: Usd
    description: Annotated[str, Field(max_length=200)] = ""
    kind: Literal["cpu", "gpu"] = "gpu"
    machine: bool = False
    """Whether its memory and speed are those of the machine that the platform runs on."""
    memory_bytes: Annotated[int, Field(ge=1)] | None = None
    """Of one GPU: each of several holds the base."""
    assumed_flops: Annotated[float, Field(gt=0)] | None = None
    """Of all processors, or all GPUs, together."""


_BOOK = TypeAdapter(list[Entry])


def shipped() -> list[Entry]:
    """The price book that comes with the platform: prices of the first sketches where they had one, the list of
    https://huggingface.co/docs/hub/jobs-pricing (November 2026) for the other flavours of Hugging Face Jobs."""
    return _BOOK.validate_json(_SHIPPED.read_bytes())


_FREE = frozenset(entry.hardware for entry in shipped() if not micro_usd(entry.hourly_usd))
ONLY_OURS_IS_FREE = f"Only {', '.join(sorted(_FREE))} may."


def may_cost(hardware: str, micro_usd_per_hour: int) -> bool:
    """Whether this is a price for it: what others rent out costs something, this machine may cost nothing.

    >>> may_cost("local-cpu", 0), may_cost("A100", 0), may_cost("A100", 1)
    (True, False, True)
    """
    return micro_usd_per_hour > 0 or hardware in _FREE


def read(path: Path) -> list[Entry]:
    """The price book of those who run the server. Raises: SetupError."""
    try:
        return parsed(path.read_bytes())
    except OSError as error:
        raise SetupError(f"LUTHIER_PRICES: {path} cannot be read ({error.strerror}).", hint=_HINT) from None


def parsed(data: bytes) -> list[Entry]:
    """The entries in these bytes. A price is taken digit by digit: 1.1 is 1.10, and 1.1000000000000001 is refused.

    Raises: SetupError, naming the entry.
    """
    try:
        entries = _BOOK.validate_python(_digits(json.loads(data, parse_float=str)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SetupError(f"LUTHIER_PRICES: entry {where}: {first['msg']}.", hint=_HINT) from None
    except (ValueError, RecursionError):
        raise SetupError("LUTHIER_PRICES: the file is no JSON.", hint=_HINT) from None
    names = [entry.hardware for entry in entries]
    for entry in entries:
        if names.count(entry.hardware) > 1:
            raise SetupError(f"LUTHIER_PRICES: {entry.hardware} has two prices.", hint="Name each hardware once.")
        if not may_cost(entry.hardware, micro_usd(entry.hourly_usd)):
            raise SetupError(f"LUTHIER_PRICES: {entry.hardware} costs nothing.", hint=ONLY_OURS_IS_FREE)
    return entries


def complete(entries: Iterable[Entry], known: Iterable[str]) -> None:
    """Whether all hardware that jobs may ask for has a price. Raises: SetupError."""
    missing = sorted({*known} - {entry.hardware for entry in entries})
    if missing:
        raise SetupError(f"LUTHIER_PRICES: no price for {', '.join(missing)}.", hint="The file names all hardware.")


def _digits(book: object) -> object:
    """JSON numbers of dollars as the text that they were."""
    if not isinstance(book, list):
        return book
    return [_entry(item) for item in book]


def _entry(item: object) -> object:
    if not isinstance(item, dict):
        return item
    price, flops = item.get("hourly_usd"), item.get("assumed_flops")
    # Booleans are integers in Python.
    given = str(price) if isinstance(price, int) and not isinstance(price, bool) else price
    speed = {"assumed_flops": float(flops)} if isinstance(flops, str) else {}
    return {**item, "hourly_usd": given, **speed}
