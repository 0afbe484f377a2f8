"""A client of a vLLM server that others run: one base, adapters loaded as LoRA modules when they are first asked.

The server is started with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, reads the same folders as we do, and gives
token ids back (`return_token_ids`, vLLM 0.10.2). What stands on another base, and classifiers, are the local engine's.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from luthier.errors import ArtifactCorrupt, EngineUnavailable, FieldInvalid, LuthierError, ModelLoading, TooMany
from luthier.seams import (
    Classification,
    Classified,
    Generation,
    InferenceEngine,
    Likely,
    Piece,
    ServedClassifier,
    ServedModel,
)

_NOT_FOUND, _TOO_MANY, _UNAVAILABLE = 404, 429, 503
_REFUSED = frozenset({400, 422})
_CONNECT_S = 5.0
_READ_S = 600.0
_KNOWN_ALREADY = "already been loaded"
_TOKEN_ID = "token_id:"  # noqa: S105  # how the server writes a token by its number


@dataclass(frozen=True)
class Upstream:
    """Where the server is, and which base it holds."""

    url: str
    key: str | None
    base_folder: Path


class VllmEngine:
    """Implements `seams.InferenceEngine`. Any thread may ask."""

    def __init__(self, upstream: Upstream, local: InferenceEngine) -> None:
        self._upstream = upstream
        self._local = local
        headers = {} if upstream.key is None else {"authorization": f"Bearer {upstream.key}"}
        timeout = httpx.Timeout(_CONNECT_S, read=_READ_S)
        self._client = httpx.Client(base_url=upstream.url, headers=headers, timeout=timeout, trust_env=False)
        self._lock = threading.Lock()
        self._loaded: set[ServedModel] = set()
        self._base_name: str | None = None
        self._state = "idle"

    def generate(self, model: ServedModel, request: Generation) -> Generator[Piece]:
        """Stream the answer. Closing the iterator closes the connection, at which the server stops.

        Raises: EngineUnavailable, ModelLoading, TooMany; ArtifactCorrupt for an adapter that the server does not take,
        FieldInvalid for what it refuses.
        """
        if model.base_folder != self._upstream.base_folder:
            yield from self._local.generate(model, request)
            return
        if request.max_tokens == 0:
            yield Piece((), "length")
            return
        try:
            yield from self._answer(model, request)
        except httpx.TransportError as error:
            self._state = "failed"
            raise EngineUnavailable(
                "The vLLM server does not answer.", hint="LUTHIER_VLLM_URL says where it is; those who run it know more."
            ) from error

    def classify(self, model: ServedClassifier, questions: Sequence[Classification]) -> Sequence[Classified]:
        """See `seams.InferenceEngine`: the local engine does it."""
        return self._local.classify(model, questions)

    def score(self, model: ServedModel, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]) -> Sequence[float]:
        """See `seams.InferenceEngine`: the local engine does it."""
        return self._local.score(model, prompt_ids, answers)

    def unload(self, folder: Path) -> None:
        """See `seams.InferenceEngine`."""
        self._local.unload(folder)
        for model in [each for each in list(self._loaded) if each.adapter_folder == folder]:
            self._loaded.discard(model)
            with contextlib.suppress(httpx.HTTPError):
                self._client.post("/v1/unload_lora_adapter", json={"lora_name": model.id}, timeout=_CONNECT_S)

    def state(self) -> Mapping[str, Any]:
        """As last seen, without asking."""
        return {"state": self._state, "models": sorted(model.id for model in list(self._loaded)), "upstream": self._upstream.url}

    def close(self) -> None:
        """Let go of both."""
        self._client.close()
        self._local.close()

    def _answer(self, model: ServedModel, request: Generation) -> Generator[Piece]:
        for last_try in (False, True):
            body = _body(self._name_of(model), request)
            with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code == _NOT_FOUND and not last_try:
                    self._loaded.discard(model)  # it was started anew, or let go of this one
                    continue
                _refuse(response)
                self._state = "ready"
                yield from _pieces(response, request)
                return

    def _name_of(self, model: ServedModel) -> str:
        """What the server calls it, told to load it where it was not."""
        if model.adapter_folder is None:
            name = self._base()
            self._loaded.add(model)
            return name
        with self._lock:
            if model not in self._loaded:
                body = {"lora_name": model.id, "lora_path": str(model.adapter_folder)}
                response = self._client.post("/v1/load_lora_adapter", json=body)
                if response.is_error and _KNOWN_ALREADY not in response.text:
                    if response.status_code in _REFUSED:
                        raise ArtifactCorrupt(
                            "The vLLM server does not take this adapter.",
                            hint="It says why in its log; it must see our data folder, and allow the adapter's rank.",
                        )
                    _refuse(response)
                self._loaded.add(model)
        return model.id

    def _base(self) -> str:
        """The name of the one model that stands on no other."""
        name = self._base_name
        if name is None:
            response = self._client.get("/v1/models")
            _refuse(response)
            self._base_name = name = next(str(each["id"]) for each in response.json()["data"] if not each.get("parent"))
        return name


def _body(name: str, request: Generation) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": name,
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_token_ids": list(request.stop_ids),
        "stream": True,
        "return_token_ids": True,
        "add_special_tokens": False,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.logprobs is not None:
        body |= {"logprobs": request.logprobs, "return_tokens_as_token_ids": True}
    if request.json_schema is not None:
        body["structured_outputs"] = {"json": json.loads(request.json_schema)}
    return body


def _pieces(response: httpx.Response, request: Generation) -> Generator[Piece]:
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise _error(200, event["error"])
        for choice in event.get("choices", ()):
            piece = _piece(choice, request)
            if piece.token_ids or piece.finish_reason is not None:
                yield piece


def _piece(choice: Mapping[str, Any], request: Generation) -> Piece:
    ids = tuple(choice.get("token_ids") or ())
    finish = choice.get("finish_reason")
    if finish == "stop" and ids and ids[-1] in request.stop_ids:
        ids = ids[:-1]
    told = choice.get("logprobs") if request.logprobs is not None else None
    likely = _likely(told, len(ids), request.logprobs or 0) if told else ()
    return Piece(ids, None if finish is None else "length" if finish == "length" else "stop", likely)


def _likely(told: Mapping[str, Any], count: int, most: int) -> tuple[Likely, ...]:
    """Tokens by number: the server writes them as `token_id:17`."""

    def number(token: str) -> int:
        return int(token.removeprefix(_TOKEN_ID))

    rows = list(zip(told["tokens"], told["token_logprobs"], told.get("top_logprobs") or [], strict=False))[:count]
    return tuple(
        Likely(number(token), logp, tuple((number(other), each) for other, each in list((top or {}).items())[:most]))
        for token, logp, top in rows
    )


def _refuse(response: httpx.Response) -> None:
    if not response.is_error:
        return
    response.read()
    details: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError, AttributeError):
        found = response.json()
        details = found.get("error", found)
    raise _error(response.status_code, details)


def _error(status: int, details: Mapping[str, Any]) -> LuthierError:
    # Its own words are not passed on: they name its folders.
    if status == _TOO_MANY:
        return TooMany("The vLLM server has too much to do.", retry_after_s=2)
    if status == _UNAVAILABLE:
        return ModelLoading()
    if status in _REFUSED:
        return FieldInvalid("The vLLM server refuses this request.", param=str(details.get("param") or "prompt"))
    return EngineUnavailable("The vLLM server failed.", hint=f"It answered with status {status}; its log says why.")
