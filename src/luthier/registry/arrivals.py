"""Adapters made elsewhere on their way in: a tar of their files becomes a version like any other, that was measured nowhere."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from luthier import ids
from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.bases.types import Base
from luthier.datasets.arrivals import receive
from luthier.datasets.templates import ChatTemplate
from luthier.errors import BaseUnavailable, FieldInvalid, Invalid, ModelNotAllowed
from luthier.jobs.spec import LoraSpec, RunSpec, Sources
from luthier.registry import foreign, safetensors_header
from luthier.registry.foreign import CONFIG, TEMPLATE, TOKENIZER, WEIGHTS, Lora
from luthier.registry.safetensors_header import BadHeader, Tensor
from luthier.registry.service import Registry
from luthier.registry.types import Finished, Model
from luthier.seams import Storage
from luthier.values import Source

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,199}", re.ASCII)
_MOST_FILES = 64
_MOST_TEXT_BYTES = 16 * 1024 * 1024
_PIECE = 8 * 1024 * 1024
_CHILD_S = 90
_TRIAL = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ELSEWHERE = "imported"
"""Stands where the id of a dataset would: what it learned from is not known."""


@dataclass(frozen=True)
class Arriving:
    """What somebody says about the adapter that they send."""

    name: str
    base_model: str | None = None


class Arrivals:
    """Takes in adapters. `environment` is all that the process inherits in which a GGUF is read."""

    def __init__(  # noqa: PLR0913, PLR0917  # what it stands on
        self, registry: Registry, bases: Bases, storage: Storage, scratch: Path, most_bytes: int, environment: Mapping[str, str]
    ) -> None:
        self._registry = registry
        self._bases = bases
        self._storage = storage
        self._scratch = scratch
        self._most_bytes = most_bytes
        self._environment = environment

    def take(self, actor: Actor, wish: Arriving, chunks: Iterable[bytes]) -> Model:
        """A new version of that name, of no stage and not measured. What was sent is looked at before anything is loaded.

        Its tokenizer and template are the base's: a version answers with those that it is served with.
        Raises: FieldInvalid (`unsafe_format`, `config_key`, `adapter_invalid`, ...), ModelNotAllowed, TooLarge, StorageFull.
        """
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix=".import-") as made:
            folder = Path(made)
            files = _unpacked(receive(chunks, folder, self._most_bytes).path, folder / "files")
            weights = foreign.weights_among(files)
            _check_template(files)
            lora, base, path = self._read(files, weights, wish, folder)
            tensors = _checked(path, lora, base)
            return self._registered(actor, wish, (lora, base), path, tensors)

    def _read(self, files: Mapping[str, Path], weights: str, wish: Arriving, folder: Path) -> tuple[Lora, Base, Path]:
        """Form, base, and the weights as safetensors."""
        if weights == WEIGHTS:
            if CONFIG not in files:
                raise FieldInvalid(f"`{CONFIG}` is missing.", hint="Send it beside the weights.", code="missing", param="file")
            lora = foreign.lora_of(files[CONFIG].read_bytes())
            return lora, self._base(wish.base_model, lora.base_model), files[WEIGHTS]
        base = self._base(wish.base_model, None)
        return self._from_gguf(files[weights], base, folder / WEIGHTS), base, folder / WEIGHTS

    def _base(self, named: str | None, own: str | None) -> Base:
        """Raises: FieldInvalid (`base_differs`, `missing`), ModelNotAllowed."""
        if named is None and own is None:
            raise FieldInvalid(
                "The files do not say on which base the adapter stands.", hint="Name it.", code="missing", param="base_model"
            )
        found = self._bases.get(named or own or "")
        if named is not None and own is not None:
            with suppress(ModelNotAllowed):  # a path on its maker's machine, or another name of the same base: shapes will tell
                if self._bases.get(own).id != found.id:
                    raise FieldInvalid(
                        f"The adapter was made for another base than {found.id}.",
                        hint="Leave `base_model` out: its config names its own.",
                        code="base_differs",
                        param="base_model",
                    )
        return found

    def _from_gguf(self, path: Path, base: Base, target: Path) -> Lora:
        """Read in a process with limits. Raises: FieldInvalid (`gguf_invalid`), BaseUnavailable."""
        folder = self._bases.tokenizer_folder(base)
        if folder is None:
            raise BaseUnavailable(
                "The base's own config is needed, and is not on this machine.", hint=f"`luthier bases fetch {base.id}`."
            )
        command = [sys.executable, "-P", "-m", "luthier.modeling.gguf_import", str(path), str(folder), str(target)]
        try:
            done = subprocess.run(
                command, env=dict(self._environment), stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHILD_S, check=False
            )
            found = json.loads(done.stdout) if done.returncode == 0 else {}
        except (subprocess.TimeoutExpired, ValueError):
            found = {}
        rank, alpha = found.get("rank"), found.get("alpha")
        if not rank or not alpha or alpha != int(alpha):
            raise FieldInvalid(
                "This GGUF is no LoRA adapter of that base, or is broken.",
                hint="Send the adapter as safetensors, or make the GGUF again.",
                code="gguf_invalid",
                param="file",
            )
        return Lora(int(rank), int(alpha), rslora=False, base_model=None)

    def _registered(
        self, actor: Actor, wish: Arriving, on: tuple[Lora, Base], path: Path, tensors: Mapping[str, Tensor]
    ) -> Model:
        """Through the same door as the model of a job, whose results are laid out for this and taken away again."""
        lora, base = on
        source, job_id = self._bases.source(base), ids.new(ids.JOB)
        results = f"users/{actor.tenant_id}/imports/{job_id}"
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        spec = RunSpec(
            base_model=base.id,
            dataset=ELSEWHERE,
            name=wish.name,
            lora=LoraSpec(rank=lora.rank, alpha=lora.alpha, rslora=lora.rslora),
            metadata={"tags": f"{ELSEWHERE},lora", "description": f"{base.id}, with an adapter that was made elsewhere."},
            sources=Sources(dataset=Source(id=ELSEWHERE, url="", sha256=sha256), base=source),
        )
        try:
            self._storage.put_file(f"{results}/final_model/{WEIGHTS}", path)
            self._storage.write(f"{results}/final_model/{CONFIG}", foreign.config_text(lora, base.id, source.revision, tensors))
            folder = self._bases.tokenizer_folder(base)
            for name in _TOKENIZER_FILES:
                if folder is not None and (folder / name).is_file():
                    self._storage.put_file(f"{results}/final_model/{name}", folder / name)
            return self._registry.register(
                Finished(tenant_id=actor.tenant_id, created_by=actor.user_id, job_id=job_id, spec=spec, results=results)
            )
        finally:
            self._storage.delete(results)


def _unpacked(path: Path, folder: Path) -> dict[str, Path]:
    """Plain files of a tar, in one folder at most. Raises: FieldInvalid (`archive_invalid`)."""
    folder.mkdir()
    found: dict[str, Path] = {}
    left = path.stat().st_size  # a sparse member would say that it is more than what came
    try:
        with tarfile.open(path, "r:") as tar:
            for number, member in enumerate(tar):
                name = member.name.removeprefix("./").rpartition("/")[2]
                if member.isdir():
                    continue
                left -= member.size
                if left < 0 or number >= _MOST_FILES or not member.isreg() or not _PLAIN_NAME.fullmatch(name) or name in found:
                    raise _no_archive("holds a link, too many files, one file twice, or a name that is none")
                if name not in {WEIGHTS} and not name.endswith(".gguf") and member.size > _MOST_TEXT_BYTES:
                    raise _no_archive("holds a large file that is no weights")
                found[name] = folder / f"{number}"  # no name of theirs on our disk
                _copied(tar.extractfile(member), found[name])
    except (tarfile.TarError, OSError, EOFError):
        raise _no_archive("cannot be read") from None
    if not found:
        raise _no_archive("is empty")
    return found


def _copied(source: IO[bytes] | None, target: Path) -> None:
    if source is None:
        raise _no_archive("cannot be read")
    with source, target.open("xb") as file:
        while piece := source.read(_PIECE):
            file.write(piece)


def _checked(path: Path, lora: Lora, base: Base) -> Mapping[str, Tensor]:
    """The tensors, each in its place, of the right shape and finite. Raises: FieldInvalid."""
    try:
        with path.open("rb") as file:
            tensors = safetensors_header.read(file, path.stat().st_size)
            foreign.check_fits(tensors, lora, base)
            for tensor in tensors.values():
                file.seek(tensor.first)
                left = tensor.size
                while left:
                    piece = file.read(min(_PIECE, left))
                    left -= len(piece)
                    if not piece or not foreign.is_finite(piece, tensor.dtype):
                        raise FieldInvalid(
                            "The adapter holds numbers that are not finite.",
                            hint="Its training had come apart: use an earlier checkpoint.",
                            code="not_finite",
                            param="file",
                        )
    except BadHeader as error:
        raise FieldInvalid(
            f"`{WEIGHTS}` is broken: {error}.", hint="Save the adapter again.", code="safetensors_invalid", param="file"
        ) from None
    return tensors


def _check_template(files: Mapping[str, Path]) -> None:
    """Try their chat template in the sandbox, though it is never used: who sends one that tries to get out sends more.

    Raises: FieldInvalid (`template_invalid`, `config_key`).
    """
    found = [files[TEMPLATE].read_text("utf-8", "replace")] if TEMPLATE in files else []
    if TOKENIZER in files:
        try:
            config = json.loads(files[TOKENIZER].read_bytes())
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise FieldInvalid(f"`{TOKENIZER}` is no JSON object.", hint="Leave it out.", code="template_invalid", param="file")
        foreign.check_keys(config, TOKENIZER)
        inside = config.get("chat_template")
        found += [inside] if isinstance(inside, str) else []
    for template in found:
        try:
            ChatTemplate(template, {"bos_token": "", "eos_token": ""}).render(_TRIAL, None)
        except Invalid as error:
            raise FieldInvalid(
                f"The chat template cannot be used: {error.message}",
                hint="Leave it out: a version is served with its base's own.",
                code="template_invalid",
                param="file",
            ) from None


def _no_archive(how: str) -> FieldInvalid:
    return FieldInvalid(f"The body {how}.", hint="Send an uncompressed tar of one folder.", code="archive_invalid", param="file")
