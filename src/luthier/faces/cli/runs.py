"""A run, from a config file and flags to what the server is asked. The file says how to train, flags say on what and where."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from luthier.errors import LuthierError
from luthier.faces.cli.edge import usage
from luthier.faces.cli.shown import clean

_MAX_BYTES = 65_536


def _whole(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _number(text: str) -> float | str:
    return text if text == "auto" else float(text)


@dataclass(frozen=True)
class RunFlags:
    """The flags of `tune start` and `tune estimate`. Those below `max_cost_usd` are what a config file holds."""

    config: Annotated[Path | None, typer.Option("--config", help="A run as YAML, like configs/ and examples/ have them.")] = None
    model: Annotated[str | None, typer.Option("--model", help="Base model, e.g. luthier/tiny.")] = None
    dataset: Annotated[str | None, typer.Option("--dataset", help="What to train on: an id, name@version, or a name.")] = None
    validation: Annotated[
        str | None,
        typer.Option("--validation", "--validation-dataset", help="Held-out rows, named as well: measured before and after."),
    ] = None
    name: Annotated[str | None, typer.Option("--name", help="Name of the model that comes out.")] = None
    hardware: Annotated[str | None, typer.Option("--hardware", help="Where to train; `tune pricing` lists it.")] = None
    max_cost_usd: Annotated[str | None, typer.Option("--max-cost-usd", help="Save and stop once it has cost so much.")] = None
    method: Annotated[str | None, typer.Option("--method", help="How to train: sft, dpo, orpo, kto, grpo or classifier.")] = None
    epochs: Annotated[Any, typer.Option("--epochs", metavar="<int|auto>", parser=_whole, help="Passes over the data.")] = None
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Optimiser steps, instead of epochs.")] = None
    learning_rate: Annotated[
        Any, typer.Option("--learning-rate", metavar="<float|auto>", parser=_number, help="Peak learning rate.")
    ] = None
    batch_size: Annotated[
        Any, typer.Option("--batch-size", metavar="<int|auto>", parser=_whole, help="Rows of one forward pass.")
    ] = None
    max_seq_len: Annotated[int | None, typer.Option("--max-seq-len", help="Longer rows are cut.")] = None
    rank: Annotated[int | None, typer.Option("--rank", help="Inner width of the LoRA adapter.")] = None
    alpha: Annotated[int | None, typer.Option("--alpha", help="Strength of the adapter: alpha / rank.")] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same adapter.")] = None

    def spec(self) -> dict[str, Any]:
        """The run as the server takes it. Raises: usage."""
        spec = self._inline() if self.config is None else self._configured(self.config)
        given = {
            "base_model": self.model,
            "dataset": self.dataset,
            "validation_dataset": self.validation,
            "name": self.name,
            "hardware": self.hardware,
        }
        spec |= {field: value for field, value in given.items() if value is not None}
        if self.max_cost_usd is not None:
            spec["limits"] = {**_mapping(spec.get("limits")), "max_cost_usd": self.max_cost_usd}
        if spec.get("kind") in _OF_MODELS:
            return _of_model(spec)
        for field, flag in (("base_model", "--model"), ("dataset", "--dataset")):
            if field not in spec and (field, spec.get("method")) != ("base_model", "classifier"):
                raise usage(f"{flag} is missing{'' if self.config is None else ', and the config has no ' + field}.")
        return spec

    def _configured(self, path: Path) -> dict[str, Any]:
        both = [f"--{name.replace('_', '-')}" for name in (*_TOP, *_TRAIN, *_LORA) if getattr(self, name) is not None]
        if both:
            raise usage(
                f"How to train stands in the config; {', '.join(both)} beside --config would say it twice. Change the file."
            )
        return read_config(path)

    def _inline(self) -> dict[str, Any]:
        spec = self._given(_TOP)
        groups = {"train": self._given(_TRAIN), "lora": self._given(_LORA)}
        return spec | {group: values for group, values in groups.items() if values}

    def _given(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


_OF_MODELS = ("evaluate", "export")
_TOP = ("method", "seed")
_TRAIN = ("epochs", "max_steps", "learning_rate", "batch_size", "max_seq_len")
_LORA = ("rank", "alpha")


def _of_model(spec: dict[str, Any]) -> dict[str, Any]:
    """A run about a model of the registry: `--model` names that one, not a base. Raises: usage."""
    base = spec.pop("base_model", None)
    if base is not None:
        spec["model"] = base
    if "model" not in spec:
        raise usage("--model is missing, and the config has no model.")
    return spec


def takes_run(command: Callable[..., None]) -> Callable[..., None]:
    """The command's first parameter becomes all flags of `RunFlags`: two commands have them, one place names them."""
    hints = get_type_hints(RunFlags, include_extras=True)
    names = [field.name for field in fields(RunFlags)]
    flags = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[name]) for name in names]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        run = RunFlags(**{name: given.pop(name) for name in names})
        command(run, **given)

    parameters = [*flags, *own]
    with_flags.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]  # what typer reads
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del with_flags.__wrapped__  # or typer would look through to the parameters behind
    return with_flags


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a YAML file. Raises: usage, naming the file."""
    from luthier.jobs.yaml12 import read_yaml  # PyYAML: only where a file is read

    try:
        spec = read_yaml(_bytes_of(path), max_bytes=_MAX_BYTES)
    except LuthierError as error:
        raise usage(f"{path}: {error.message} {error.hint or ''}") from None
    if not isinstance(spec, dict):
        raise usage(f"{path}: a config is a mapping of fields, such as `base_model: luthier/tiny`.")
    return spec


def _bytes_of(path: Path) -> bytes:
    """At most one byte more than is allowed, so that a huge file is refused as fast as a small one."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise usage(f"The config {path} cannot be read: {error.strerror}.") from None
    if len(data) > _MAX_BYTES:
        size = path.stat().st_size
        raise usage(f"{path} is no config: it has {max(size, len(data))} bytes, a config at most {_MAX_BYTES}.")
    if b"\x00" in data:
        raise usage(f"{path} is no config: it is not text.")
    return data


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def described(spec: Mapping[str, Any]) -> str:
    """One line about a run, for people."""
    if spec.get("kind") in _OF_MODELS:
        on = f" on {spec['dataset']}" if spec.get("dataset") else ""
        return clean(f"{spec['kind']} of {spec['model']}{on}")
    of = spec.get("base_model") or _mapping(spec.get("classifier")).get("model", "mnist-cnn")
    return clean(f"{spec.get('method', 'sft')} of {of} on {spec.get('dataset')}")
