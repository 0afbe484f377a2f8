"""The catalogue: which of a team's models fit what somebody wants, by what their cards say."""

from __future__ import annotations

import logging
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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
_QUESTIONS_KEPT = 1024
_SPARE = 5
"""So many more are looked for than are wanted: what was deleted a moment ago drops out."""
LEXICAL = "lexical"
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class _Shelf:
    """What a team's models are compared by, as of one state of its index."""

    stamp: tuple[int, int]
    ids: list[str]
    cards: WordIndex | Vectors

    def best(self, asked: Any, limit: int) -> list[tuple[str, float]]:
        """Ids and scores of the models whose cards are most like words, or a vector, as the shelf is one of."""
        return [(self.ids[number], score) for number, score in self.cards.best(asked, limit)]


class Catalogue:
    """Search and recommendation within a team. Without an embedder words are compared."""

    def __init__(self, database: Database, files: ModelFiles, embedder: Embedder | None = None) -> None:
        self._database = database
        self._files = files
        self._embedder = embedder
        self._shelves: OrderedDict[tuple[str, str], _Shelf] = OrderedDict()
        self._questions: OrderedDict[tuple[str, str], Sequence[float]] = OrderedDict()
        """Vectors of what was asked: to make one takes longer than all the rest."""
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
        waiting, stamp = self._caught_up(actor.tenant_id)
        if vector is None and self._embedder is not None:
            vector = self._vector_of(self._embedder, actor.tenant_id, wanted.text or "")
        asked = search_rules.words(wanted.text or "")
        if vector is None or self._embedder is None:
            by, waiting = LEXICAL, 0
            found = self._shelf(actor.tenant_id, LEXICAL, stamp).best(asked, wanted.limit + _SPARE)
        else:
            by = self._embedder.name
            found = self._shelf(actor.tenant_id, by, stamp).best(vector, wanted.limit + _SPARE)
        return Recommended(by=by, data=self._told(actor, found, asked, wanted.limit), waiting=waiting)

    def catch_up(self, tenant_id: str) -> int:
        """List what is new, and make some of the vectors that are missing. Returns how many still are."""
        return self._caught_up(tenant_id)[0]

    def _caught_up(self, tenant_id: str) -> tuple[int, tuple[int, int]]:
        """How many vectors are still missing, and the stamp of the index then."""
        with self._database.read(tenant_id) as session:
            state = index_store.state(session)
        if self._settled.get(tenant_id) == state:
            return 0, state[1:]
        self._list_all(tenant_id)
        waiting = 0 if self._embedder is None else self._make_vectors(self._embedder, tenant_id)
        with self._database.read(tenant_id) as session:
            state = index_store.state(session)
            # A model that came meanwhile has no entry yet, and is seen to by the next question.
            if not waiting and not index_store.unlisted(session, tenant_id):
                self._settled[tenant_id] = state
        return waiting, state[1:]

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

    def _vector_of(self, embedder: Embedder, tenant_id: str, text: str) -> Sequence[float] | None:
        with self._lock:
            known = self._questions.get((tenant_id, text))
        if known is not None:
            return known
        try:
            made = embedder.embed([text])[0]
        except NotEmbedded as error:
            _LOG.warning("a question is compared by its words: %s", error)
            return None
        with self._lock:
            _put(self._questions, (tenant_id, text), array("d", made), _QUESTIONS_KEPT)
        return made

    def _shelf(self, tenant_id: str, by: str, stamp: tuple[int, int]) -> _Shelf:
        """What is held since the index had this stamp, or else what it holds now."""
        with self._lock:
            known = self._shelves.get((tenant_id, by))
        if known is not None and known.stamp == stamp:
            return known
        with self._database.read(tenant_id) as session:
            if by == LEXICAL:
                held = index_store.all_words(session)
                shelf = _Shelf(stamp, [each for each, _ in held], WordIndex([words for _, words in held]))
            else:
                vectors = index_store.all_vectors(session, by)
                shelf = _Shelf(stamp, [each for each, _ in vectors], Vectors([vector for _, vector in vectors]))
        with self._lock:
            _put(self._shelves, (tenant_id, by), shelf, _TEAMS_KEPT)
        return shelf

    def _told(
        self, actor: Actor, found: Sequence[tuple[str, float]], asked: Sequence[str], limit: int
    ) -> tuple[Recommendation, ...]:
        scores = dict(found)
        with self._database.read(actor.tenant_id) as session:
            models = [listed(row) for row in index_store.first_standing(session, scores, limit)]
        return tuple(
            Recommendation(model=model, score=round(scores[model.id], 4), why=search_rules.in_common(asked, model.card))
            for model in models
        )


def _put(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _entry(tenant_id: str, card: ModelCard) -> ModelIndexRow:
    facets, words = search_rules.facets_of(card), search_rules.words_of(card)
    return ModelIndexRow(tenant_id=tenant_id, model_id=card.id, facets=facets, words=words, embedder=None, embedding=None)
