"""An engine that answers with the prompt's own tokens, backwards. For tests and for trying out a platform without torch."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import EngineUnavailable, FieldInvalid
from luthier.seams import Classification, Classified, Generation, Piece, ServedClassifier, ServedModel


class EchoEngine:
    """Deterministic: the answer depends on the prompt alone, whatever the model and the sampling."""

    def __init__(self) -> None:
        self._state = "idle"
        self._lock = threading.Lock()
        self._models: dict[str, Path | None] = {}
        """By what they were asked by: the folder of the adapter or classifier."""

    def generate(self, model: ServedModel, request: Generation) -> Generator[Piece]:
        """Stream the prompt backwards until a stop token, its start, or `max_tokens`. Raises: EngineUnavailable."""
        self._use(model.id, model.adapter_folder)
        for count, token in enumerate(reversed(request.prompt_ids)):
            if count >= request.max_tokens:
                break
            if token in request.stop_ids:
                yield Piece((), "stop")
                return
            yield Piece((token,))
        yield Piece((), "length" if len(request.prompt_ids) >= request.max_tokens else "stop")

    def classify(self, model: ServedClassifier, questions: Sequence[Classification]) -> list[Classified]:
        """Of the ten digits the one that the brightest pixel's place, or the text's length, ends in.

        Raises: EngineUnavailable, FieldInvalid.
        """
        self._use(model.id, model.folder)
        return [self._classified(question) for question in questions]

    def score(self, model: ServedModel, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        """Half as likely for each token; the prompt's own tokens are certain. Raises: EngineUnavailable."""
        self._use(model.id, model.adapter_folder)
        return [-math.log(2) * sum(token not in prompt_ids for token in answer) for answer in answers]

    def unload(self, folder: Path) -> None:
        """See `seams.InferenceEngine`."""
        with self._lock:
            self._models = {name: where for name, where in self._models.items() if where != folder}

    def state(self) -> Mapping[str, Any]:
        """See `seams.InferenceEngine`."""
        with self._lock:
            return {"state": "idle" if self._state == "closed" else self._state, "models": sorted(self._models)}

    def close(self) -> None:
        """End it; it cannot be started again."""
        with self._lock:
            self._state = "closed"
            self._models.clear()

    def _use(self, model_id: str, folder: Path | None) -> None:
        with self._lock:
            if self._state == "closed":
                raise EngineUnavailable("The engine was closed.", hint="Start the platform again.")
            self._state = "ready"
            self._models[model_id] = folder

    def _classified(self, request: Classification) -> Classified:
        given = request.image or request.prompt_ids or request.text
        if not given:
            raise FieldInvalid("This classifier reads something.", param="image")
        place = request.image.index(max(request.image)) if request.image else len(given)
        digits = tuple(str(digit) for digit in range(10))
        return Classified(digits, tuple(0.91 if digit == str(place % 10) else 0.01 for digit in digits))
