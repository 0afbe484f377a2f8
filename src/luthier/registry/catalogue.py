"""The catalogue: which of a team's models fit what somebody wants, by what their cards say."""

from __future__ import annotations

import logging
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.errors import FieldInvalid
from luthier.registry import index_store, search_rules
from luthier.registry.files import ModelFiles
from luthier.registry.index_store import ModelIndexRow
from luthier.registry.nearest import Vectors
from luthier.registry.rows import listed, model_of, stored_of
from luthier.registry.search_rules import WordIndex
from luthier.registry.search_types import Recommendation, Recommended, RecommendRequest, Wanted
from luthier.registry.types import Model, ModelCard
from luthier.seams import Embedder, NotEmbedded
from luthier.values import Page

_LOG = logging.getLogger("luthier.registry")
_AT_ONCE = 32
"""Vectors that one call makes: about half a second."""
_TEAMS_KEPT = 8
LEXICAL = "lexical"


@dataclass(frozen=True)
class _Shelf:
    """What a team's models are compared by, as of one state of its index."""

    stamp: tuple[int, int]
    ids: list[str]
    cards: WordIndex | Vectors


class Catalogue:
    """Search and recommendation within a team. Without an embedder words are compared."""

    def __init__(self, database: Database, files: ModelFiles, embedder: Embedder | None = None) -> None:
        self._database = database
        self._files = files
        self._embedder = embedder
        self._shelves: OrderedDict[tuple[str, str], _Shelf] = OrderedDict()
        self._settled: dict[str, tuple[int, int, int]] = {}
        """In which state of its index a team lacked nothing."""
        self._lock = threading.Lock()

    def search(self, actor: Actor, wanted: Wanted, *, after: str | None = None, limit: int = 50) -> Page[Model]:
        """The models whose cards say all of what is wanted, newest first. Raises: CursorInvalid."""
        self._list_all(actor.tenant_id)
        facets, words = search_rules.asked(wanted), search_rules.words(wanted.text or "")
        with self._database.read(actor.tenant_id) as session:
            rows, cursor = index_store.search(session, facets, words, after=after, limit=limit)
            return Page(data=[listed(row) for row in rows], next_cursor=cursor)

    def recommend(self, actor: Actor, wanted: RecommendRequest) -> Recommended:
        """The models that are most like what is wanted. Raises: FieldInvalid for a vector that cannot be compared."""
        vector = None if wanted.embedding is None else self._comparable(wanted.embedding)
        waiting = self.catch_up(actor.tenant_id)
        if vector is None and self._embedder is not None:
            vector = self._vector_of(self._embedder, wanted.text or "")
        asked = search_rules.words(wanted.text or "")
        # Some more than wanted: what was deleted a moment ago drops out.
        if vector is None or self._embedder is None:
            by, waiting = LEXICAL, 0
            found = self._best(actor, LEXICAL, lambda cards: cards.best(asked, wanted.limit + 5))
        else:
            by, query = self._embedder.name, vector
            found = self._best(actor, by, lambda cards: cards.best(query, wanted.limit + 5))
        return Recommended(by=by, data=self._told(actor, found, asked)[: wanted.limit], waiting=waiting)

    def catch_up(self, tenant_id: str) -> int:
        """List what is new, and make some of the vectors that are missing. Returns how many still are."""
        with self._database.read(tenant_id) as session:
            if self._settled.get(tenant_id) == index_store.state(session):
                return 0
        self._list_all(tenant_id)
        waiting = 0 if self._embedder is None else self._make_vectors(self._embedder, tenant_id)
        if not waiting:
            with self._database.read(tenant_id) as session:
                # A model that came meanwhile has no entry yet, and is seen to by the next question.
                if not index_store.unlisted(session, tenant_id):
                    self._settled[tenant_id] = index_store.state(session)
        return waiting

    def _make_vectors(self, embedder: Embedder, tenant_id: str) -> int:
        with self._database.read(tenant_id) as session:
            lacking = [(row.id, model_of(row).card) for row in index_store.unembedded(session, embedder.name, _AT_ONCE)]
        if lacking:
            try:
                vectors = embedder.embed([search_rules.text_of(card) for _, card in lacking])
            except NotEmbedded as error:
                _LOG.warning("no vectors of models: %s", error)
            else:
                for (model_id, _), vector in zip(lacking, vectors, strict=True):
                    self._keep(tenant_id, model_id, vector, embedder.name)
        with self._database.read(tenant_id) as session:
            return index_store.waiting(session, embedder.name)

    def _list_all(self, tenant_id: str) -> None:
        with self._database.read(tenant_id) as session:
            if not index_store.unlisted(session, tenant_id):
                return
        # Not durable, and no row of the audit log: what is lost here is made again from the cards.
        with self._database.beat() as session:
            for row in index_store.unlisted(session, tenant_id):
                session.add(_entry(row.tenant_id, model_of(row).card))

    def _keep(self, tenant_id: str, model_id: str, vector: Sequence[float], embedder: str) -> None:
        """A vector, in the index and on the card."""
        with self._database.beat() as session:
            row = index_store.standing(session, tenant_id, model_id)
            if row is None:
                return
            card = model_of(row).card.model_copy(update={"embedding": tuple(round(number, 6) for number in vector)})
            row.card = card.model_dump_json()
            entry = _entry(tenant_id, card)
            entry.embedder, entry.embedding = embedder, array("f", vector).tobytes()
            index_store.replace(session, entry)
        self._files.write(stored_of(row), {})

    def _comparable(self, embedding: tuple[float, ...]) -> Sequence[float]:
        if self._embedder is None:
            raise FieldInvalid(
                "This server has no embedder, so its models have no vectors.",
                hint="Ask in words, with `text`, or have `luthier[search]` installed.",
                param="embedding",
                code="no_embedder",
            )
        if len(embedding) != self._embedder.dimensions:
            raise FieldInvalid(
                f"The vector has {len(embedding)} numbers; those of {self._embedder.name} have {self._embedder.dimensions}.",
                hint="Compare only vectors of one embedder, or ask in words, with `text`.",
                param="embedding",
                code="wrong_dimensions",
            )
        if not any(embedding):
            raise FieldInvalid("The vector is all zeros: it has no direction.", hint="Give another one.", param="embedding")
        return embedding

    def _vector_of(self, embedder: Embedder, text: str) -> Sequence[float] | None:
        try:
            return embedder.embed([text])[0]
        except NotEmbedded as error:
            _LOG.warning("a question is compared by its words: %s", error)
            return None

    def _best(self, actor: Actor, by: str, rank: Callable[[Any], list[tuple[int, float]]]) -> list[tuple[str, float]]:
        shelf = self._shelf(actor.tenant_id, by)
        return [(shelf.ids[number], score) for number, score in rank(shelf.cards)]

    def _shelf(self, tenant_id: str, by: str) -> _Shelf:
        with self._database.read(tenant_id) as session:
            stamp = index_store.stamp(session)
            with self._lock:
                known = self._shelves.get((tenant_id, by))
            if known is not None and known.stamp == stamp:
                return known
            if by == LEXICAL:
                held = index_store.all_words(session)
                shelf = _Shelf(stamp, [each for each, _ in held], WordIndex([words for _, words in held]))
            else:
                vectors = index_store.all_vectors(session, by)
                shelf = _Shelf(stamp, [each for each, _ in vectors], Vectors([vector for _, vector in vectors]))
        with self._lock:
            self._shelves[tenant_id, by] = shelf
            self._shelves.move_to_end((tenant_id, by))
            while len(self._shelves) > _TEAMS_KEPT:
                self._shelves.popitem(last=False)
        return shelf

    def _told(self, actor: Actor, found: list[tuple[str, float]], asked: Sequence[str]) -> tuple[Recommendation, ...]:
        with self._database.read(actor.tenant_id) as session:
            ids = [model_id for model_id, _ in found]
            rows, words = index_store.models(session, ids), index_store.words_of(session, ids)
        held = {model_id: set(text.split()) for model_id, text in words.items()}
        return tuple(
            Recommendation(
                model=listed(rows[model_id]),
                score=round(score, 4),
                why=tuple(word for word in asked if word in held.get(model_id, ())),
            )
            for model_id, score in found
            if model_id in rows
        )


def _entry(tenant_id: str, card: ModelCard) -> ModelIndexRow:
    facets, words = search_rules.facets_of(card), search_rules.words_of(card)
    return ModelIndexRow(tenant_id=tenant_id, model_id=card.id, facets=facets, words=words, embedder=None, embedding=None)
