"""Decisions about base models: what their sizes mean, and which ids an admin allowed besides the catalog."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from luthier.bases.types import TINY, BaseShape
from luthier.errors import ModelNotAllowed, SetupError

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
DENIED_KEYS = frozenset({"auto_map", "trust_remote_code", "_attn_implementation_internal", "custom_pipelines"})
"""Keys of a config that make libraries import code which came with a model, or from a hub."""
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


def parameter_count(shape: BaseShape) -> int:
    """Weights of a model of the Llama family with these sizes.

    >>> smollm = BaseShape(
    ...     hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocab=49152, context=8192
    ... )
    >>> parameter_count(smollm)
    134515008
    """
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * query + 2 * key) + (query + 2 * key if shape.attention_bias else 0)
    norms = 2 * shape.hidden + (2 * shape.head_dim if shape.qk_norm else 0)
    layer = attention + 3 * shape.hidden * shape.intermediate + norms
    embeddings = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    return embeddings + shape.layers * layer + shape.hidden


def shape_of(config: Mapping[str, Any]) -> BaseShape:
    """The sizes that a Llama-shaped `config.json` states. Raises: KeyError where it is of another kind."""
    heads = int(config["num_attention_heads"])
    kind = config.get("model_type")
    return BaseShape(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", kind == "qwen2")),
        qk_norm=kind == "qwen3",
    )


def aliases(text: str) -> dict[str, str]:
    """`name=base,name=base` as a mapping. Raises: SetupError.

    >>> aliases("gpt-4o-mini=luthier/tiny")
    {'gpt-4o-mini': 'luthier/tiny'}
    """
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, sign, base_id = (piece.strip() for piece in part.partition("="))
        if not (name and sign and base_id) or name in found:
            raise SetupError(
                f"LUTHIER_MODEL_ALIASES: `{part[:80]}` is no pair of a name and a base.",
                hint="Write `gpt-4o-mini-2024-07-18=luthier/tiny`, with commas between pairs, each name once.",
            )
        found[name] = base_id
    return found


def pins(text: str) -> dict[str, str]:
    """`id@commit,id@commit` as a mapping. Raises: SetupError, so that a branch name is never taken for a pin.

    >>> pins("a/b@" + "0" * 40)
    {'a/b': '0000000000000000000000000000000000000000'}
    """
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        hub_id, _, commit = part.partition("@")
        if not _HUB_ID.fullmatch(hub_id) or not _COMMIT.fullmatch(commit) or hub_id == TINY:
            raise SetupError(
                "LUTHIER_BASES: each entry is a hub id, `@`, and the 40 hex digits of a commit.",
                hint="A branch or a tag can be moved to other weights; a commit cannot. The commit stands on the model's page.",
            )
        found[hub_id] = commit
    return found


def folder_name(base_id: str) -> str:
    """The cache folder of a base, in one part.

    >>> folder_name("luthier/tiny")
    'luthier--tiny'
    """
    return base_id.replace("/", "--")


def refusal(asked: str, allowed: Iterable[str]) -> ModelNotAllowed:
    """What to say about a base that is not on the list: the nearest one that is, and one that always works."""
    names = list(allowed)
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(asked[:200].lower(), lower, n=1, cutoff=0.6)
    suggestion = f"Did you mean {lower[near[0]]}?" if near else f"`{TINY}` always works."
    return ModelNotAllowed(
        f"This base model is not one of the {len(names)} that are allowed here.",
        hint=f"{suggestion} `GET /api/bases` lists all, {TINY} among them; an admin adds more with LUTHIER_BASES=id@commit.",
        param="base_model",
    )


def asks_for_code(config: Any) -> Iterator[str]:
    """The keys of a parsed config, however deep, that would run code which came with the model."""
    if isinstance(config, list):
        for item in cast(list[Any], config):
            yield from asks_for_code(item)
    if not isinstance(config, dict):
        return
    for key, item in cast(dict[str, Any], config).items():
        # An attention implementation "user/repo" is a kernel that a library would download and run.
        if key in DENIED_KEYS or ("attn_implementation" in key and "/" in str(item)):
            yield key
        yield from asks_for_code(item)
