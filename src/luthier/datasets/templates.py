"""A chat template in its sandbox: the same text as transformers' `apply_chat_template`, without transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import TemplateError, TemplateRuntimeError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luthier.errors import Invalid

# A template that prints today's date would train other tokens each day: resuming and serving need the same ones.
FIXED_DAY = datetime(2024, 7, 26, tzinfo=UTC)

MOST_STEPS = 1_000_000
"""Rounds of loops, places of ranges and calls in one rendering. The longest conversation that a row may hold takes a hundredth:
a template that takes more would keep a trainer, or a request, for as long as it likes."""
_STEPS = "luthier steps"
"""No name that a template can write."""

_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template that was made for other messages, or for mischief, ends with."""

PLAIN = """\
{%- for message in messages -%}
    {{- message.role | capitalize + ': ' + message.content -}}
    {%- for call in message.tool_calls or [] -%}
        {{- ' <tool_call>' + (call.function | tojson) + '</tool_call>' -}}
    {%- endfor -%}
    {%- if message.role == 'assistant' -%}{{- eos_token -}}{%- endif -%}
    {{- '\\n' -}}
    {%- if loop.first and tools -%}{{- 'Tools: ' + (tools | tojson) + '\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
"""For bases that come without a template: `User: ...`, `Assistant: ...` and the tokenizer's end token, one turn a line."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text in some templates. It is read, and nothing hangs on it: see `spans`."""

    tags = {"generation"}  # noqa: RUF012  # jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Steps:
    """What one rendering may still take."""

    def __init__(self) -> None:
        self.left = MOST_STEPS

    def take(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise TemplateRuntimeError(f"it takes more than {MOST_STEPS} steps")


def _steps_of(context: Context) -> _Steps:
    return context.parent[_STEPS]


@pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    steps = _steps_of(context)
    for value in values:
        steps.take()
        yield value


@pass_context
def _range(context: Context, *bounds: int) -> range:
    found = range(*bounds)
    _steps_of(context).take(len(found))
    return found


class _CountingLoops(CodeGenerator):
    """Every loop goes over what `_counted` gives."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:  # noqa: N802  # the name of jinja
        for loop in node.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _STEPS, [], [], None, None, lineno=loop.lineno).set_environment(self.environment)
        super().visit_Template(node, frame)


class _Sandbox(ImmutableSandboxedEnvironment):
    """A template reaches nothing but what it is given, and ends."""

    code_generator_class = _CountingLoops

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # the names of jinja
        _steps_of(__context).take()
        return super().call(__context, __obj, *args, **kwargs)


class ChatTemplate:
    """One template with the special tokens that it may name. Rendering is safe in threads."""

    def __init__(self, source: str, tokens: Mapping[str, Any]) -> None:
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
        environment.filters[_STEPS] = cast("Any", _counted)
        environment.filters["tojson"] = _tojson
        known: dict[str, Any] = cast("Any", environment.globals)
        known.update(raise_exception=_raise, strftime_now=FIXED_DAY.strftime, range=_range)
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise Invalid(
                f"The base's chat template is not valid Jinja (line {getattr(error, 'lineno', '?')}).",
                hint="Use another base.",
                code="template",
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, *, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt` it ends where the assistant's next answer starts.

        Raises: Invalid `template` where the template refuses these messages.
        """
        try:
            given = {"documents": None, "add_generation_prompt": prompt, **self._tokens, _STEPS: _Steps()}
            return self._template.render(messages=messages, tools=tools, **given)
        except _REFUSALS as error:
            said = str(error)[:200] if isinstance(error, TemplateError) else type(error).__name__
            raise Invalid(
                f"The base's chat template refuses this conversation: {said}.",
                hint="Change the roles or their order to what this base was made for, or use another base.",
                code="template",
            ) from error


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
