"""Vectors of texts, by the embedder that is installed; their tokens are counted and charged as those of a chat."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from luthier.accounts.types import Actor
from luthier.billing.token_rules import Served
from luthier.billing.tokens import TokenMeter
from luthier.errors import FieldInvalid, ModelNotAllowed, Unavailable
from luthier.seams import Embedder, NotEmbedded

INSTALL = "Install one on the server and start it anew: `pip install 'luthier[search]'`."
_AT_ONCE = 16
"""Texts of one call of the embedder: another request may have its turn in between."""


@dataclass(frozen=True)
class Embedded:
    """One vector of length 1 for each text, by which embedder, and the tokens that it read."""

    vectors: Sequence[Sequence[float]]
    by: str
    tokens: int


class Embeddings:
    """Makes texts into vectors. `names`: what else the embedder is called, so that unchanged code finds it."""

    def __init__(self, embedder: Embedder | None, meter: TokenMeter, names: Collection[str] = ()) -> None:
        self._embedder = embedder
        self._meter = meter
        self._names = frozenset(names)

    @property
    def listing(self) -> list[str]:
        """The names that are answered to."""
        return [] if self._embedder is None else [self._embedder.name, *sorted(self._names)]

    def embed(self, actor: Actor, model: str, texts: Sequence[str], dimensions: int | None = None) -> Embedded:
        """The vectors of these texts. Nothing is counted of a request that is refused.

        Raises: ModelNotAllowed without such an embedder, FieldInvalid, Unavailable where it is broken, QuotaExceeded,
        BudgetExceeded.
        """
        embedder = self._named(model)
        if dimensions not in (None, embedder.dimensions):
            raise FieldInvalid(
                f"The vectors of {embedder.name} have {embedder.dimensions} numbers.",
                hint="Leave `dimensions` out.",
                param="dimensions",
            )
        account = self._meter.account(actor, "embeddings", embedder.name, embedder.name)
        try:
            tokens = embedder.tokens(texts)
            self._meter.admit(actor, account, tokens)
            vectors = [each for at in range(0, len(texts), _AT_ONCE) for each in embedder.embed(texts[at : at + _AT_ONCE])]
        except NotEmbedded as error:
            raise Unavailable(f"The embedder does not work: {error}.", hint=INSTALL) from error
        self._meter.add(account, Served(requests=1, prompt_tokens=tokens))
        return Embedded(vectors, embedder.name, tokens)

    def _named(self, model: str) -> Embedder:
        if self._embedder is None:
            raise ModelNotAllowed("This server has no embedder.", hint=INSTALL, param="model", code="no_embedder")
        if model not in self.listing:
            raise ModelNotAllowed(
                f"The embedder of this server is called {', '.join(self.listing)}.",
                hint="Name it, or let an admin add your name for it to LUTHIER_EMBEDDER_NAMES.",
                param="model",
            )
        return self._embedder
