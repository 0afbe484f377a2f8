"""llama.cpp in the engine process: in the places of `models.py` and `turns.py`, with the same wire around it.

A base becomes a GGUF when it is first asked, and an adapter one of its own beside it; both lie in a folder that ends with the
process. One answer at a time: llama.cpp holds one conversation in a context, and takes up the part that two prompts share.
"""

from __future__ import annotations

import queue
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from luthier.errors import ArtifactCorrupt, EngineUnavailable, FieldInvalid, LuthierError, ModelNotAllowed, NotFound, TooMany
from luthier.modeling import adapter_files, gguf_adapters, gguf_files, llama
from luthier.modeling.base_config import check_config
from luthier.modeling.generate import Token
from luthier.modeling.gguf_files import NotGguf
from luthier.modeling.turns import Ask, Do
from luthier.modeling.types import Sampling

_MOST_MODELS = 4
_MOST_CONTEXT = 8192
"""Tokens of a conversation; what a model may have beyond costs memory for all of it at once."""
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class _Held:
    model: llama.LlamaModel
    base: Path
    adapter: Path | None


class LlamaModels:
    """Not for two threads at once. Made files lie in a folder of its own, until `close`."""

    def __init__(self, scratch: Path, threads: int | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=scratch, prefix="gguf-")
        self._threads = threads
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._bases: dict[Path, Path] = {}
        self.listing: tuple[tuple[str, str | None], ...] = ()

    def load(self, name: str, base_folder: Path, adapter_folder: Path | None) -> None:
        """Make `name` answerable. Twice the same is once. Raises: BaseUnavailable, ModelNotAllowed, ArtifactCorrupt."""
        known = self._held.get(name)
        if known is not None and (known.base, known.adapter) == (base_folder, adapter_folder):
            return
        self._forget(name)
        while len(self._held) >= _MOST_MODELS:
            self._forget(next(iter(self._held)))
        try:
            base = self._base(base_folder)
            adapter = None if adapter_folder is None else self._adapter(base_folder, adapter_folder)
            model = llama.LlamaModel(
                base, adapter=adapter, context=_context_of(base_folder), threads=self._threads, all_logits=False
            )
        except NotGguf as error:
            raise ModelNotAllowed(
                f"llama.cpp does not serve this model: {error}.", hint="Serve it with LUTHIER_ENGINE=transformers."
            ) from None
        except (ValueError, OSError, SafetensorError) as error:
            raise ArtifactCorrupt(f"llama.cpp cannot load this model ({type(error).__name__}).", hint="Train it again.") from None
        self._held[name] = _Held(model, base_folder, adapter_folder)
        self.listing = tuple((each, None) for each in self._held)

    def unload(self, folder: Path) -> None:
        """Let go of the model whose adapter was read from this folder."""
        for name in [name for name, held in self._held.items() if held.adapter == folder]:
            self._forget(name)
        self.listing = tuple((each, None) for each in self._held)

    def get(self, name: str) -> llama.LlamaModel:
        """A loaded model, now the last to leave. Raises: NotFound."""
        if name not in self._held:
            raise NotFound("model", hint="Load it with `POST /v1/load_lora_adapter`, then ask again.")
        self._held.move_to_end(name)
        return self._held[name].model

    def close(self) -> None:
        """Let go of all models and files."""
        for name in list(self._held):
            self._forget(name)
        self._folder.cleanup()

    def _base(self, folder: Path) -> Path:
        made = self._bases.get(folder)
        if made is None:
            check_config(folder)
            made = Path(self._folder.name, f"{len(self._bases)}.gguf")
            gguf_files.write(folder, made, "base", "f16")
            self._bases[folder] = made
        return made

    def _adapter(self, base: Path, folder: Path) -> Path:
        shape = adapter_files.read_shape(folder)
        with safe_open(folder / adapter_files.WEIGHTS, "np") as file:
            names = list(file.keys())
            matrices = {name.removeprefix(_PREFIX): file.get_tensor(name).astype("float32") for name in names}
        made = Path(self._folder.name, f"{secrets.token_hex(8)}.gguf")
        gguf_adapters.write(matrices, shape.scale, base, made, "f32")
        return made

    def _forget(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            held.model.close()


class LlamaTurns:
    """The one thread that computes; up to `waiting` tasks wait."""

    def __init__(self, models: LlamaModels, *, waiting: int = 32) -> None:
        self._models = models
        self._waiting: queue.Queue[Ask | Do | None] = queue.Queue(waiting)
        self._working = threading.Event()
        self._thread = threading.Thread(target=self._work, name="llama", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        """Tasks that are worked on, or wait."""
        return self._waiting.qsize() + self._working.is_set()

    def submit(self, task: Ask | Do) -> None:
        """Queue a task. Raises: TooMany."""
        try:
            self._waiting.put_nowait(task)
        except queue.Full:
            raise TooMany("Too many requests wait for this engine.", retry_after_s=2) from None

    def close(self, wait_s: float) -> bool:
        """End the thread; False where it is still busy after that time."""
        self._waiting.put(None)
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            self._working.set()
            try:
                self._do(task)
            except LuthierError as error:
                task.tell(error)
            except Exception as error:  # noqa: BLE001  # the edge of the thread: whoever waits is told, and the next one served
                task.tell(EngineUnavailable(f"The engine failed ({type(error).__name__}).", hint="Ask again."))
            finally:
                self._working.clear()
        self._models.close()

    def _do(self, task: Ask | Do) -> None:
        if isinstance(task, Do):
            models: Any = self._models
            task.work(models)
            task.tell(None)
            return
        for token in self._tokens(self._models.get(task.model), task.prompt, task.sampling):
            if task.left.is_set():
                return
            task.tell(token)

    def _tokens(self, model: llama.LlamaModel, prompt: tuple[int, ...], sampling: Sampling) -> Iterator[Token]:
        if not prompt or min(prompt) < 0 or max(prompt) >= model.vocab:
            raise FieldInvalid(f"Token ids lie between 0 and {model.vocab - 1}.", param="prompt")
        if len(prompt) >= model.context:
            told = f"The prompt has {len(prompt)} tokens, and llama.cpp was given room for {model.context}."
            raise FieldInvalid(told, hint="Send less of the conversation.", param="messages")
        left = min(sampling.max_new_tokens, model.context - len(prompt))
        if left < 1:
            yield Token(None, "length")
            return
        for token in model.answer(prompt, temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed):
            if token in sampling.stop_ids:
                yield Token(None, "stop", token)
                return
            left -= 1
            yield Token(token, None if left else "length")
            if not left:
                return


def _context_of(base: Path) -> int:
    return min(int(gguf_files.architecture_of(base)[0]["max_position_embeddings"]), _MOST_CONTEXT)
