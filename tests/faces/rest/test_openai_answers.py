"""What models answer to the official SDK: chat, completions, embeddings."""

import json
import math
import struct
from base64 import b64decode
from decimal import Decimal

import openai
import pytest
from tests.faces.rest.official import Scripted, client_of, served

from luthier.seams import Piece


@pytest.fixture
def sdk(world):
    with client_of(world) as client:
        yield client


def asked(sdk, **more):
    return sdk.chat.completions.create(model="luthier/tiny", messages=[{"role": "user", "content": "abc"}], **more)


def test_a_chat_is_answered_whole_with_its_usage(world, sdk):
    world.build_base()
    answer = asked(sdk, max_tokens=3, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert (choice.finish_reason, answer.usage.completion_tokens, answer.model) == ("length", 3, "luthier/tiny")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3


def test_a_stream_says_the_same_piece_by_piece(world, sdk):
    world.build_base()
    whole = asked(sdk, max_tokens=3).choices[0].message.content
    chunks = list(asked(sdk, max_tokens=3, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 3)


def test_several_answers_come_with_their_numbers(world, sdk):
    world.build_base()
    answer = asked(sdk, n=3, max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 9
    chunks = list(asked(sdk, n=2, max_tokens=4, stream=True))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


def test_an_answer_ends_before_a_stop_text(world, sdk):
    world.build_base()
    whole = asked(sdk, max_tokens=30).choices[0].message.content
    stop = whole[4:7]
    choice = asked(sdk, max_tokens=30, stop=[stop]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_calls_of_tools_are_taken_out_of_the_text(tmp_path):
    engine = Scripted('Let me see.<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}</tool_call>')
    with served(tmp_path, engine) as (_, sdk):
        tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
        choice = asked(sdk, tools=[tool]).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
        assert (choice.message.tool_calls[0].function.name, choice.message.tool_calls[0].type) == ("now", "function")
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"zone": "UTC"}
        chunks = list(asked(sdk, tools=[tool], stream=True))
        assert chunks[-1].choices[0].delta.tool_calls[0].function.name == "now"
        said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
        assert "".join(said) == "Let me see."
        assert len(said) > 1  # as it comes, not at the end


def test_what_only_looks_like_a_call_is_told_as_text(tmp_path):
    odd = "1 < 2 <tool_call> is a tag, {not} JSON"
    with served(tmp_path, Scripted(odd)) as (_, sdk):
        tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
        chunks = list(asked(sdk, tools=[tool], stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == odd
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_log_probabilities_and_a_schema_reach_the_engine(tmp_path):
    engine = Scripted("yes")
    with served(tmp_path, engine) as (_, sdk):
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = asked(sdk, logprobs=True, top_logprobs=2, response_format=form)
        told = answer.choices[0].logprobs.content
        assert "".join(each.token for each in told) == "yes"
        assert len(told[0].top_logprobs) == 2
        assert json.loads(engine.asked[-1].json_schema) == schema


class Filling(Scripted):
    """Writes `text` only where a schema is asked for, as an engine that follows it would."""

    def generate(self, model, request):
        assert request.json_schema is not None
        return super().generate(model, request)


def tool_of(name, **parameters):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def test_a_tool_that_must_be_called_is_called(tmp_path):
    engine = Filling('{"name": "now", "arguments": {"zone": "UTC"}}')
    zone = {"$defs": {"Zone": {"enum": ["UTC"]}}, "properties": {"zone": {"$ref": "#/$defs/Zone"}}, "required": ["zone"]}
    tools = [tool_of("now", **zone), tool_of("stop")]
    with served(tmp_path, engine) as (_, sdk):
        free = asked(sdk, tools=tools, response_format={"type": "json_object"})
        named = {"type": "function", "function": {"name": "now"}}
        choice = asked(sdk, tools=tools, tool_choice=named).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"zone": "UTC"}
        prompt = engine.asked[-1].prompt_ids
        assert free.usage.prompt_tokens < len(prompt)  # the answer is begun for the model: what is left is the call
        schema = json.loads(engine.asked[-1].json_schema)
        assert [call["properties"]["name"] for call in schema["anyOf"]] == [{"const": "now"}]
        assert schema["$defs"] == {"0.Zone": {"enum": ["UTC"]}}
        assert schema["anyOf"][0]["properties"]["arguments"]["properties"] == {"zone": {"$ref": "#/$defs/0.Zone"}}
        chunks = list(asked(sdk, tools=tools, tool_choice="required", stream=True))
        assert chunks[-1].choices[0].delta.tool_calls[0].function.name == "now"
        assert not any(chunk.choices[0].delta.content for chunk in chunks)
        assert len(json.loads(engine.asked[-1].json_schema)["anyOf"]) == 2


class Cut(Scripted):
    """Comes to its longest length."""

    def generate(self, model, request):
        yield from list(super().generate(model, request))[:-1]
        yield Piece((), "length")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "now", "arguments": {"zone": "U', '{"zone": "U'),
        ('{"name": "now", "arguments": {"zone": "UTC"}', '{"zone": "UTC"}'),
        ('{"name": "now", "arguments": {"zone": "UTC"}}', '{"zone": "UTC"}'),
        ('{"name": "now", "arguments": ', ""),
        ('{"name": "no', None),
    ],
)
def test_a_call_that_meets_the_longest_length_comes_as_far_as_it_is(tmp_path, text, arguments):
    with served(tmp_path, Cut(text)) as (_, sdk):
        choice = asked(sdk, tools=[tool_of("now")], tool_choice="required").choices[0]
        assert choice.finish_reason == "length"
        chunks = list(asked(sdk, tools=[tool_of("now")], tool_choice="required", stream=True))
        assert chunks[-1].choices[0].finish_reason == "length"
        told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        if arguments is None:
            assert (choice.message.content, choice.message.tool_calls) == (f"<tool_call>{text}", None)
            assert told == f"<tool_call>{text}"
        else:
            assert (choice.message.content, told) == (None, "")
            (call,) = choice.message.tool_calls
            assert (call.function.name, call.function.arguments) == ("now", arguments)
            assert chunks[-1].choices[0].delta.tool_calls[0].function.arguments == arguments


@pytest.mark.parametrize(
    ("wrong", "param", "said"),
    [
        ({"tool_choice": "required"}, "tool_choice", "no `tools`"),
        ({"tools": [tool_of("now")], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "no tool"),
        ({"tools": [tool_of("now")], "tool_choice": "sometimes"}, "tool_choice", "'required'"),
        ({"functions": [{"name": "now"}]}, "functions", "old form of `tools`"),
        ({"stop": ["x"] * 17}, "stop", "at most 16 items"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "at most 0 items"),
        ({"messages": []}, "messages", "at least 1 item"),
    ],
)
def test_a_refusal_says_what_is_meant(world, sdk, wrong, param, said):
    world.build_base()
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        sdk.chat.completions.create(**{"model": "luthier/tiny", "messages": [{"role": "user", "content": "x"}], **wrong})
    assert refused.value.param == param


@pytest.mark.parametrize("seed", [-1, 2**40, 2**63 - 1])
def test_any_seed_of_64_bits_is_taken(tmp_path, seed):
    with served(tmp_path, Scripted("yes")) as (_, sdk):
        assert len(asked(sdk, seed=seed, n=2).choices) == 2


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 100}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 1000}, "n"),
        ({"stop": ["x"] * 1000}, "stop"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254"}}]}]},
            "messages",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_field(world, sdk, wrong, param):
    body = {"model": "luthier/tiny", "messages": [{"role": "user", "content": "x"}], **wrong}
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(**body)
    assert refused.value.param == param


def completed(sdk, prompt="abc", **more):
    return sdk.completions.create(model="luthier/tiny", prompt=prompt, **more)


def test_a_text_is_gone_on_with(world, sdk):
    world.build_base()
    answer = completed(sdk, "The app is gone again today", max_tokens=3, temperature=0)
    assert (answer.object, answer.model, answer.system_fingerprint) == ("text_completion", "luthier/tiny", "luthier/tiny")
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)
    assert len(answer.choices[0].text) > 0


def test_no_template_stands_around_a_text(tmp_path):
    engine = Scripted("d")
    with served(tmp_path, engine) as (_, sdk):
        text, plain = completed(sdk, "<|im_start|>abc"), engine.asked[-1].prompt_ids
        ids = completed(sdk, list(plain)), engine.asked[-1].prompt_ids
        assert (ids[1], ids[0].choices[0].text) == (plain, text.choices[0].text)
        # A special token that a text spells is text: more than one token, none of them the special one's.
        assert len(plain) > 4


def test_several_prompts_and_answers_are_numbered_in_their_order(tmp_path):
    with served(tmp_path, Scripted("d")) as (_, sdk):
        answer = completed(sdk, ["one", "two and more"], n=2, seed=1, echo=True)
        assert [(each.index, each.text) for each in answer.choices] == [
            (0, "oned"),
            (1, "oned"),
            (2, "two and mored"),
            (3, "two and mored"),
        ]
        alone = [completed(sdk, prompt).usage.prompt_tokens for prompt in ("one", "two and more")]
        assert answer.usage.prompt_tokens == sum(alone)


@pytest.mark.parametrize("stream", [False, True])
def test_the_bill_counts_what_usage_says_each_prompt_once(tmp_path, stream):
    with served(tmp_path, Scripted("one two")) as (world, _), client_of(world, strict=False) as sdk:
        more = {"n": 3, "stream": stream, "stream_options": {"include_usage": True} if stream else openai.NOT_GIVEN}
        said = [asked(sdk, **more), completed(sdk, ["one", "two and more"], **more)]
        usages = [[*each][-1].usage if stream else each.usage for each in said]
        (billed,) = world.ask("GET", "/api/billing/usage").json()["tokens"]
        assert billed["requests"] == 3  # a chat, and two texts
        assert billed["prompt_tokens"] == sum(usage.prompt_tokens for usage in usages)
        assert billed["completion_tokens"] == sum(usage.completion_tokens for usage in usages)


def test_each_answer_draws_from_a_seed_of_its_own(tmp_path):
    engine = Scripted("d")
    with served(tmp_path, engine) as (_, sdk):
        completed(sdk, n=3, seed=1)
        assert len({asked.seed for asked in engine.asked}) == 3


def test_a_text_comes_piece_by_piece_with_its_usage(tmp_path):
    with served(tmp_path, Scripted("yes and no")) as (world, _), client_of(world, strict=False) as sdk:
        chunks = list(completed(sdk, "q", stream=True, echo=True, stop="no", stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "qyes and "
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage.completion_tokens > 0


def test_how_likely_the_tokens_of_a_text_are_and_where_they_stand(tmp_path):
    with served(tmp_path, Scripted("yes and")) as (world, sdk):
        told = completed(sdk, logprobs=2).choices[0].logprobs
        assert "".join(told.tokens) == "yes and"
        places = zip(told.tokens, told.text_offset, strict=True)
        assert all("yes and"[place : place + len(token)] == token for token, place in places)
        assert {len(top) for top in told.top_logprobs} == {2}
        with client_of(world, strict=False) as loose:
            chunks = [chunk.choices[0].logprobs for chunk in completed(loose, logprobs=0, stream=True)]
        assert [offset for told_now in chunks if told_now for offset in told_now.text_offset] == told.text_offset


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "the end"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": "word " * 3000}, "prompt"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_with_its_field(world, sdk, wrong, param):
    world.build_base()
    with pytest.raises(openai.BadRequestError) as refused:
        completed(sdk, **{"prompt": "x", **wrong})
    assert refused.value.param.partition(".")[0] == param
    assert refused.value.code != "internal"


class Lengths:
    """An embedder: of two numbers, the first is the text's length."""

    name, dimensions = "lengths", 2

    def embed(self, texts):
        return [(len(text) / 100, math.sqrt(1 - (len(text) / 100) ** 2)) for text in texts]

    def tokens(self, texts):
        return sum(len(text.split()) for text in texts)


def test_texts_become_vectors_in_either_encoding(tmp_path):
    with served(tmp_path, embedder=Lengths(), embedder_names="text-embedding-3-small") as (world, sdk):
        # The SDK asks for base64, which its own strict types do not know before it decodes it.
        with client_of(world, strict=False) as usual:
            made = usual.embeddings.create(model="text-embedding-3-small", input=["one", "two words"])
        assert [round(each.embedding[0], 6) for each in made.data] == [0.03, 0.09]
        assert (made.model, made.usage.prompt_tokens, [each.index for each in made.data]) == ("lengths", 3, [0, 1])
        plain = sdk.embeddings.create(model="lengths", input="one", encoding_format="float")
        assert plain.data[0].embedding[0] == 0.03
        raw = sdk.post("/embeddings", body={"model": "lengths", "input": "one", "encoding_format": "base64"}, cast_to=object)
        assert struct.unpack("<2f", b64decode(raw["data"][0]["embedding"]))[0] == pytest.approx(0.03)
        assert "text-embedding-3-small" in [model.id for model in sdk.models.list()]
        assert sdk.models.retrieve("lengths").owned_by == "luthier"
        with pytest.raises(openai.NotFoundError, match="lengths") as refused:
            sdk.embeddings.create(model="other", input="one")
        assert (refused.value.param, refused.value.code) == ("model", "model_not_found")
        with pytest.raises(openai.BadRequestError, match="2 numbers"):
            sdk.embeddings.create(model="lengths", input="one", dimensions=3)
        for wrong in ([], "", [1, 2]):
            with pytest.raises(openai.BadRequestError) as refused:
                sdk.embeddings.create(model="lengths", input=wrong)
            assert refused.value.param.partition(".")[0] == "input"


def test_tokens_of_vectors_are_counted_and_billed_until_the_quota_is_used_up(tmp_path):
    prices, limits = "lengths=2000.00/0", {"quota_served_tokens_a_month": 8}
    with served(tmp_path, embedder=Lengths(), token_prices=prices, **limits) as (world, sdk):
        for text in ("one", ["one", "two words"]):
            sdk.embeddings.create(model="lengths", input=text, encoding_format="float")
        with pytest.raises(openai.APIStatusError, match="8; 4 are used, and this needs 5") as refused:
            sdk.embeddings.create(model="lengths", input="five words are too many", encoding_format="float")
        assert (refused.value.status_code, refused.value.code) == (402, "insufficient_quota")
        usage = world.ask("GET", "/api/billing/usage").json()
        told = usage["tokens"][0]
        assert (told["model"], told["kind"], told["requests"]) == ("lengths", "embeddings", 2)  # what was refused is not counted
        assert (told["prompt_tokens"], told["completion_tokens"], told["cost_usd"]) == (4, 0, "0.008")
        assert usage["cost_usd"] == "0.008"


def test_what_usage_says_in_all_answers_is_what_quota_and_bill_say(tmp_path):
    """C08: several answers to one prompt read it once, also on the bill."""
    prices = {"token_prices": "luthier/tiny=1000.00/3000.00,lengths=500.00/0", "quota_served_tokens_a_month": 100_000}
    with served(tmp_path, Scripted("Hello there"), Lengths(), **prices) as (world, sdk):
        used = [asked(sdk).usage, asked(sdk, n=3).usage, completed(sdk, ["one", "two and more"], n=2).usage]
        chunks = list(asked(sdk, n=2, stream=True, stream_options={"include_usage": True}))
        vectors = sdk.embeddings.create(model="lengths", input="three words here", encoding_format="float").usage
        used.append(chunks[-1].usage)
        told = {each["kind"]: each for each in world.ask("GET", "/api/billing/usage").json()["tokens"]}
        prompt, answer = (sum(getattr(each, f"{name}_tokens") for each in used) for name in ("prompt", "completion"))
        assert (told["chat"]["prompt_tokens"], told["chat"]["completion_tokens"]) == (prompt, answer)
        assert told["embeddings"]["prompt_tokens"] == vectors.total_tokens == 3
        assert Decimal(told["chat"]["cost_usd"]) == (prompt * 1000 + answer * 3000) / Decimal(1_000_000)
        quotas = {each["quota"]: each["used"] for each in world.ask("GET", "/api/quotas").json()["data"]}
        assert quotas["served_tokens_a_month"] == prompt + answer + 3
        world.platform.billing.tokens.keep()  # written: nothing is counted twice by that
        usage = world.ask("GET", "/api/billing/usage").json()
        assert {each["kind"]: each for each in usage["tokens"]} == told
        report = world.ask("GET", f"/api/billing/report?period={usage['period']}").json()
        assert report["total_usd"] == usage["cost_usd"] == str(sum(Decimal(each["cost_usd"]) for each in told.values()))


def test_vectors_that_cost_something_are_refused_when_the_budget_is_spent(tmp_path):
    with served(tmp_path, embedder=Lengths(), token_prices="*=1000.00/0", budget_limit_usd="0") as (world, sdk):
        with pytest.raises(openai.APIStatusError) as refused:
            sdk.embeddings.create(model="lengths", input="one", encoding_format="float")
        assert (refused.value.status_code, refused.value.code) == (402, "insufficient_quota")
        assert world.ask("GET", "/api/billing/usage").json()["tokens"] == []


def test_without_an_embedder_it_is_said_how_to_install_one(sdk):
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.embeddings.create(model="text-embedding-3-small", input="one")
    error = refused.value
    assert (error.code, error.param, error.type) == ("no_embedder", "model", "invalid_request_error")
    assert "pip install" in error.body["hint"]
