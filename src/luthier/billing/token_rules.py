"""What served tokens cost. Pure: integers only, as in `rules.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from luthier.errors import SetupError
from luthier.values import Usd, micro_usd

_MILLION = 1_000_000
_DOLLARS = TypeAdapter[str](Usd)
ANY = "*"
_HINT = "For example `luthier/tiny=0.15/0.60,*=1.00/2.00/5.00`: prompt, answer, and predictions, dollars per million each."


@dataclass(frozen=True)
class TokenPrice:
    """Micro-dollars per million prompt tokens, completion tokens and predictions."""

    prompt: int = 0
    completion: int = 0
    prediction: int = 0

    @property
    def free(self) -> bool:
        return not (self.prompt or self.completion or self.prediction)


@dataclass(frozen=True)
class Served:
    """What was answered."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Served) -> Served:
        return Served(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __sub__(self, other: Served) -> Served:
        return Served(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
        )


def charge(price: TokenPrice, kind: str, served: Served) -> int:
    """Micro-dollars for all that was served of one kind in one day at one price: floored once, over all.

    >>> price = TokenPrice(150_000, 600_000)
    >>> charge(price, "chat", Served(1, 1_000_000, 500_000))
    450000
    >>> charge(price, "chat", Served(1, 6, 0)), charge(price, "chat", Served(2, 12, 0))
    (0, 1)
    """
    predictions = served.requests if kind == "predict" else 0
    whole = price.prompt * served.prompt_tokens + price.completion * served.completion_tokens + price.prediction * predictions
    return whole // _MILLION


def parsed(text: str) -> dict[str, TokenPrice]:
    """Prices by base model; `*` is that of all others. Raises: SetupError.

    >>> parsed("luthier/tiny=0.15/0.60, *=1/2/5")["luthier/tiny"]
    TokenPrice(prompt=150000, completion=600000, prediction=0)
    """
    found: dict[str, TokenPrice] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        base, _, prices = entry.rpartition("=")
        amounts = prices.split("/")
        if not base or base in found or not 2 <= len(amounts) <= 3:
            raise SetupError(f"LUTHIER_TOKEN_PRICES: `{entry[:80]}` cannot be read.", hint=_HINT)
        try:
            found[base.strip()] = TokenPrice(*(micro_usd(_DOLLARS.validate_python(amount.strip())) for amount in amounts))
        except ValidationError:
            raise SetupError(f"LUTHIER_TOKEN_PRICES: `{entry[:80]}` holds what is no price.", hint=_HINT) from None
    return found


def price_of(prices: Mapping[str, TokenPrice], base: str) -> TokenPrice:
    """What the tokens of a base cost, and those of all that stands on it. Free where nothing says otherwise."""
    return prices.get(base) or prices.get(ANY) or TokenPrice()
