"""What is asked at /v1/chat/completions, and the questions that it means."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from luthier.errors import FieldInvalid
from luthier.faces.rest.openai.routes import Lenient
from luthier.faces.rest.openai.sampling import Sampling, asked_of
from luthier.serving.types import ChatMessage, ChatRequest
from luthier.values import Text, Whole

_DEFAULT_MOST = 1024


class Part(Lenient):
    """A part of a message. Only text is read here."""

    type: str
    text: Text | None = None


class Message(Lenient):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(max_length=1000)] | None = None
    name: Annotated[Text | None, Field(max_length=256)] = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: Annotated[Text | None, Field(max_length=256)] = None


class JsonSchemaFormat(Lenient):
    """The schema that an answer follows."""

    name: str = "answer"
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Lenient):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None

    @property
    def schema_text(self) -> str | None:
        """As the engine takes it."""
        if self.type == "json_object":
            return '{"type": "object"}'
        return json.dumps((self.json_schema and self.json_schema.json_schema) or {}) if self.type == "json_schema" else None


class ToolName(Lenient):
    name: Text


class ChosenTool(Lenient):
    """The one tool that is called."""

    type: Literal["function"]
    function: ToolName


class ChatCreate(Sampling):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[Whole, Field(ge=1, le=131_072)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=131_072)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = Field(
        default=None, description="`required`: some tool is called; an object with its name: that one."
    )
    functions: list[Any] | None = Field(default=None, description="The old form of `tools`: refused.")
    response_format: ResponseFormat | None = None

    @field_validator("functions")
    @classmethod
    def _in_their_new_form(cls, functions: list[Any] | None) -> list[Any] | None:
        if functions:
            raise ValueError("this is the old form of `tools`: write each as a tool of the type `function`")
        return functions

    def question(self, number: int = 0) -> ChatRequest:
        """The question behind answer `number`. Raises: FieldInvalid."""
        return asked_of(
            ChatRequest,
            **self.chosen(number),
            messages=tuple(_message(message) for message in self.messages),
            tools=None if self.tool_choice == "none" or not self.tools else tuple(self.tools),
            max_tokens=self.max_completion_tokens or self.max_tokens or _DEFAULT_MOST,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            json_schema=self.response_format.schema_text if self.response_format else None,
            must_call=self.must_call,
        )

    @property
    def must_call(self) -> tuple[str, ...]:
        """The tools of which one is called, whatever the model likes best. Raises: FieldInvalid where there are none."""
        if self.tool_choice in (None, "none", "auto"):
            return ()
        if not self.tools:
            raise FieldInvalid(
                "There are no `tools` to call.", hint="List them, or leave out `tool_choice`.", param="tool_choice"
            )
        if isinstance(self.tool_choice, ChosenTool):
            return (self.tool_choice.function.name,)
        functions = [each.get("function") for each in self.tools]
        return tuple(str(each["name"]) for each in functions if isinstance(each, dict) and "name" in each)


def _message(message: Message) -> ChatMessage:
    return ChatMessage(
        role="system" if message.role == "developer" else message.role,
        content=_text(message.content) if isinstance(message.content, list) else message.content,
        name=message.name,
        tool_calls=tuple(message.tool_calls) if message.tool_calls else None,
        tool_call_id=message.tool_call_id,
    )


def _text(parts: list[Part]) -> str:
    other = next((part.type for part in parts if part.type != "text"), None)
    if other is not None:
        raise FieldInvalid(
            "A message has a part that is no text; the models here read text.", hint="Send text parts only.", param="messages"
        )
    return "".join(part.text or "" for part in parts)
