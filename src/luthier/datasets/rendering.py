"""From a row to tokens and the mask of those that carry loss: the one rendering of training, evaluation and serving.

Conversations go through the base's chat template (or a plain one, `templates.PLAIN`, where it has none); the assistant's
turns carry loss, each with its end-of-turn token. Prompt/completion rows go through no template, as in TRL: the prompt's
tokens, then the completion's and the end token, which carry loss. Pairs, rated answers and prompts are rendered by the same
rules. Rows that are too long lose their end, never their head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

from luthier.datasets.chat import Notes, read_messages, read_tools
from luthier.datasets.decoding import TextStream
from luthier.datasets.examples import BadRow, Example, Message, Pair, Prompt
from luthier.datasets.templates import FIXED_DAY, PLAIN, ChatTemplate
from luthier.datasets.tokens import MARKS, Tokens, read_config
from luthier.datasets.turns import Span, Turns
from luthier.datasets.words import Placed
from luthier.errors import BaseUnavailable, FieldInvalid, Invalid

_RULES = "1: generation prompt to end-of-turn token; prompt/completion as plain text with end token"
"""Change the number with the rule: the fingerprint tells models apart that were trained by another one."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row for training. `loss[i]` says whether the model learns to write token i."""

    ids: list[int]
    loss: list[bool]
    truncated: bool = False
    """The row was longer than allowed and has lost its end."""
    special_text: bool = False
    """A text spelled a special token; it was tokenised as text."""
    weight: float = 1.0
    """How much the row's loss counts beside that of other rows."""


class RenderedPair(NamedTuple):
    """Two answers to one prompt: both start with the same tokens, and only what follows them carries loss."""

    chosen: Rendered
    rejected: Rendered


@dataclass(frozen=True, slots=True)
class _Text:
    """A rendered conversation that waits for its tokens. `mark` is set where a text spells a special token."""

    text: str
    spans: list[Span]
    mark: str | None


class Renderer:
    """Renders rows for one base model. Safe in threads."""

    def __init__(self, tokens: Tokens, templates: Mapping[str, str], fingerprint: str, stops: Sequence[int] = ()) -> None:
        self._tokens = tokens
        self._templates = {name: ChatTemplate(source, tokens.named) for name, source in templates.items()}
        self._turns = {name: Turns(template, tokens) for name, template in self._templates.items()}
        self.fingerprint = fingerprint
        """sha256 over tokenizer, templates and rules: equal fingerprints render equal tokens."""
        self.end_id = tokens.special_ids[self._turns["default"].end_token]
        self.eos_id = self.end_id if tokens.eos_id is None else tokens.eos_id
        self.stop_ids = frozenset({self.end_id, self.eos_id, *stops})
        """Generation ends at these."""

    @classmethod
    def load(cls, folder: Path) -> Renderer:
        """The renderer of a model folder (tokenizer.json, tokenizer_config.json, chat_template.jinja).

        Raises: BaseUnavailable without a readable tokenizer; Invalid `template` for a template that cannot be trained on.
        """
        config = read_config(folder, "tokenizer_config.json")
        tokens = Tokens.load(folder, config)
        templates = _templates(folder, config)
        eos = read_config(folder, "generation_config.json").get("eos_token_id")
        stops = cast("list[Any]", eos if isinstance(eos, list) else [eos])
        digest = hashlib.sha256((folder / "tokenizer.json").read_bytes())
        digest.update(json.dumps([templates, tokens.named, tokens.bos_ids, _RULES, FIXED_DAY.isoformat()]).encode())
        return cls(tokens, templates, digest.hexdigest(), [stop for stop in stops if isinstance(stop, int)])

    def render(self, example: Example, max_len: int | None = None) -> Rendered:
        """Tokens and loss mask of one row. Raises: Invalid `template`."""
        return self.render_batch([example], max_len)[0]

    def render_batch(self, examples: Sequence[Example], max_len: int | None = None) -> list[Rendered]:
        """Tokens and loss masks of many rows, tokenised together on all cores. Raises: Invalid `template`."""
        texts = self._texts(examples)
        return self._rendered(examples, texts, self._tokens.encode(_unmarked(texts)), max_len)

    def render_groups(self, groups: Iterable[Sequence[Example]], max_len: int | None = None) -> Iterator[list[Rendered]]:
        """`render_batch` of each group. While one is tokenised as a whole, which needs no interpreter, the next is read and put
        into the template, so what `groups` raises may come a group early. Raises: Invalid `template`."""
        if self._tokens.word_by_word:
            yield from (self.render_batch(examples, max_len) for examples in groups)
            return
        with ThreadPoolExecutor(1, "tokens") as aside:
            waiting: Callable[[], list[Rendered]] | None = None
            for examples in groups:
                texts = self._texts(examples)
                encoded = aside.submit(self._tokens.encode, _unmarked(texts))
                if waiting is not None:
                    yield waiting()
                waiting = partial(self._when_encoded, examples, texts, encoded, max_len)
            if waiting is not None:
                yield waiting()

    def _when_encoded(
        self, examples: Sequence[Example], texts: Sequence[_Text | None], encoded: Future[Iterator[Placed]], max_len: int | None
    ) -> list[Rendered]:
        return self._rendered(examples, texts, encoded.result(), max_len)

    def _texts(self, examples: Sequence[Example]) -> list[_Text | None]:
        """None for rows that go through no template."""
        return [self._conversation(example) if example.prompt is None else None for example in examples]

    def _rendered(
        self, examples: Sequence[Example], texts: Sequence[_Text | None], encoded: Iterable[Placed], max_len: int | None
    ) -> list[Rendered]:
        together = iter(encoded)
        plain = iter(self._plain([example for example, chat in zip(examples, texts, strict=True) if chat is None], max_len))
        found: list[Rendered] = []
        for example, chat in zip(examples, texts, strict=True):
            if chat is None:
                rendered = next(plain)
            else:
                tokenised = self._tokens.encode_marked(chat.text, chat.mark) if chat.mark else next(together)
                rendered = _masked(tokenised, chat, max_len)
            found.append(rendered if example.weight == 1 else replace(rendered, weight=example.weight))
        return found

    def prompt_of(self, prompt: Prompt) -> list[int]:
        """Tokens up to where an answer to the prompt starts. Raises: Invalid `template`."""
        return self.prompt(prompt.messages, prompt.tools) if prompt.text is None else self._prompt_ids(prompt.text)

    def text(self, text: str) -> list[int]:
        """Tokens of a text that goes through no template, at least one: what a classifier reads."""
        return self._prompt_ids(text) or [self.eos_id]

    def plain(self, text: str) -> list[int]:
        """Tokens of a text by itself, nothing before or behind it."""
        return self._tokens.as_text(text).ids

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, *, begun: str = ""
    ) -> list[int]:
        """Tokens of a conversation up to where the assistant's next answer starts, or goes on behind what it begins with.

        Raises: FieldInvalid for messages that are no conversation; Invalid `template`.
        """
        try:
            notes = Notes(None)
            read = read_messages(notes, list(messages))
            offered = read_tools(notes, list(tools) if tools else None, read)
        except BadRow as bad:
            _refuse(bad)
        guarded, listed, mark = self._guarded(read, offered)
        text = self._templates[self._kind(offered)].render(guarded, listed, prompt=True) + begun
        return self._tokens.encode_marked(text, mark).ids if mark else self._tokens.ids(text)

    def target(self, example: Example) -> tuple[list[int], str]:
        """For evaluation: the prompt of the row's last answer, and that answer as text (with its tool calls, as rendered).

        Raises: Invalid `template`.
        """
        if example.prompt is not None:
            return self._prompt_ids(example.prompt), (example.completion or "").strip()
        last = max(
            number
            for number, message in enumerate(example.messages)
            if message["role"] == "assistant" and message.get("weight", 1)
        )
        chat = self._conversation(Example(messages=example.messages[: last + 1], tools=example.tools))
        start, end = chat.spans[-1]
        answer = chat.text[start:end].replace(chat.mark or MARKS[0], "").rstrip()
        for stop in {self._turns["default"].end_token, self._tokens.named.get("eos_token") or ""}:
            answer = answer.removesuffix(stop) if stop else answer
        return self.prompt(example.messages[:last], example.tools), answer.strip()

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the base knows."""
        return self._tokens.size

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of texts by themselves, without any template."""
        return list(map(len, self._tokens.ids_as_text(texts)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without the special ones."""
        return self._tokens.decode(ids)

    def spelled(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds, special ones too; a character of several tokens stands at the last of them."""
        stream = TextStream(self._tokens.spell)
        texts = [stream.push([token]) for token in ids]
        return [*texts[:-1], texts[-1] + stream.rest()] if texts else []

    def _kind(self, tools: Sequence[Any] | None) -> str:
        return "tool_use" if tools and "tool_use" in self._templates else "default"

    def _conversation(self, example: Example) -> _Text:
        guarded, tools, mark = self._guarded(example.messages, example.tools)
        kind = self._kind(tools)
        text = self._templates[kind].render(guarded, tools)
        spans = self._turns[kind].spans(guarded, tools, text)
        weights = [message.get("weight", 1) for message in example.messages if message["role"] == "assistant"]
        return _Text(text, [span for span, weight in zip(spans, weights, strict=True) if weight], mark)

    def _guarded(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[list[dict[str, Any]], list[Any] | None, str | None]:
        """Messages and tools as the template gets them, and the mark that keeps their texts from being special tokens."""
        shown = [{name: value for name, value in message.items() if name != "weight"} for message in messages]
        listed = list(tools) if tools else None
        everything = [shown, listed]
        if not self._spells_special(everything):
            return shown, listed, None
        text = json.dumps(everything, ensure_ascii=False)
        mark = next((mark for mark in MARKS if mark not in text), None)
        if mark is None:
            raise Invalid("A conversation holds all code points from U+FDD0 to U+FDEF.", hint="Remove them.", code="bad_unicode")
        return self._tokens.guard(shown, mark), self._tokens.guard(listed, mark), mark

    def _spells_special(self, value: Any) -> bool:
        search = self._tokens.special.search
        left = [value]
        while left:
            part = left.pop()
            if isinstance(part, str):
                if search(part):
                    return True
            elif isinstance(part, dict):
                left += part
                left += part.values()
            elif isinstance(part, list):
                left += cast("list[Any]", part)
        return False

    def _prompt_ids(self, prompt: str) -> list[int]:
        return [*self._tokens.bos_ids, *self.plain(prompt)]

    def _plain(self, examples: Sequence[Example], max_len: int | None) -> list[Rendered]:
        """Rows that go through no template."""
        both = [text for row in examples for text in (row.prompt or "", (row.prompt or "") + (row.completion or ""))]
        ids = self._tokens.ids_as_text(both)
        return [
            self._completed(row, prompt, whole, max_len) for row, prompt, whole in zip(examples, ids[::2], ids[1::2], strict=True)
        ]

    def _completed(self, row: Example, prompt: list[int], ids: list[int], max_len: int | None) -> Rendered:
        """A row of these tokens. ids: of the prompt with its completion."""
        if ids[: len(prompt)] != prompt:
            # The last token of the prompt would grow into the completion; when served it cannot, so neither here.
            ids = [*prompt, *self.plain(row.completion or "")]
        ids = [*self._tokens.bos_ids, *ids, self.eos_id]
        before = len(self._tokens.bos_ids) + len(prompt)
        loss = [False] * before + [True] * (len(ids) - before)
        return _cut(ids, loss, max_len, special_text=self._spells_special([row.prompt or "", row.completion or ""]))


def answers_of(pairs: Iterable[Pair]) -> list[Example]:
    """Chosen, rejected, chosen, rejected, ..."""
    return [example for pair in pairs for example in (pair.chosen, pair.rejected)]


def paired(rendered: Iterable[Rendered]) -> list[RenderedPair]:
    """What was made of `answers_of`."""
    both = iter(rendered)
    return [RenderedPair(chosen, rejected) for chosen, rejected in zip(both, both, strict=True)]


def _unmarked(texts: Iterable[_Text | None]) -> list[str]:
    """What can be tokenised together."""
    return [chat.text for chat in texts if chat and not chat.mark]


def _masked(tokenised: Placed, chat: _Text, max_len: int | None) -> Rendered:
    loss = [False] * len(tokenised.ids)
    for start, end in chat.spans:
        # The end-of-turn token is the last of the span; its own first character finds it for certain.
        first, last = tokenised.token_at(start), tokenised.token_at(end - 1)
        loss[first : last + 1] = [True] * (last + 1 - first)
    return _cut(tokenised.ids, loss, max_len, special_text=chat.mark is not None)


def _cut(ids: list[int], loss: list[bool], max_len: int | None, *, special_text: bool) -> Rendered:
    if max_len is None or len(ids) <= max_len:
        return Rendered(ids, loss, special_text=special_text)
    return Rendered(ids[:max_len], loss[:max_len], truncated=True, special_text=special_text)


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a folder by name. A file of its own wins over the configuration, as in transformers."""
    found = config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(found, str):
        templates["default"] = found
    for entry in cast("list[Any]", found) if isinstance(found, list) else []:
        templates[str(entry["name"])] = str(entry["template"])
    try:
        templates["default"] = (folder / "chat_template.jinja").read_text("utf-8")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise BaseUnavailable("The base's chat template cannot be read.", hint="Fetch the base again.") from error
    kept = {name: source for name, source in templates.items() if name in {"default", "tool_use"}}
    return kept if "default" in kept else {**kept, "default": PLAIN}


def _refuse(bad: BadRow) -> NoReturn:
    raise FieldInvalid(bad.message, hint=bad.hint, param="messages") from bad
