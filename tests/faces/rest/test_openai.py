"""The official SDK against the platform behind a real socket; its own types read every answer."""

import json
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from tests.faces.rest.conftest import World, listening

import luthier
from luthier.datasets.rendering import Renderer
from luthier.faces.rest.openai.requests import JobCreate
from luthier.faces.rest.openai.routes import unread
from luthier.jobs.directory import Event
from luthier.seams import Likely, Piece

TINY_FOLDER = Path(luthier.__file__).parent / "bases" / "tiny"


class Scripted:
    """An engine that says one text, with made-up likelihoods where they are asked for."""

    def __init__(self, text):
        self.text = text
        self.asked = []

    def generate(self, model, request):
        self.asked.append(request)
        for token in Renderer.load(TINY_FOLDER)._tokens.as_text(self.text).ids:
            told = () if request.logprobs is None else (Likely(token, -0.5, ((token, -0.5), (5, -2.0))[: request.logprobs]),)
            yield Piece((token,), None, told)
        yield Piece((), "stop")

    def state(self):
        return {"state": "ready", "models": []}

    def close(self):
        pass


@contextmanager
def client_of(world):
    """The official client, strict about what it reads, over a real socket."""
    with (
        listening(world) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=world.key, max_retries=0, _strict_response_validation=True) as client,
    ):
        yield client


@contextmanager
def served(tmp_path, engine):
    world = World(tmp_path / "data", engine)
    world.build_base()
    with client_of(world) as client:
        yield world, client
    world.platform.close()


@pytest.fixture
def sdk(world):
    with client_of(world) as client:
        yield client


def rows(count=12):
    row = {"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a%d"}]}
    return b"".join(json.dumps(row).replace("%d", str(n)).encode() + b"\n" for n in range(count))


def uploaded(sdk, name="train.jsonl", data=None):
    return sdk.files.create(file=(name, data or rows()), purpose="fine-tune")


def test_a_file_is_uploaded_listed_read_and_deleted(sdk):
    file = uploaded(sdk)
    assert (file.filename, file.status, file.purpose, file.bytes) == ("train.jsonl", "processed", "fine-tune", len(rows()))
    assert [each.id for each in sdk.files.list()] == [file.id]
    assert sdk.files.retrieve(file.id) == file
    assert sdk.files.content(file.id).read() == rows()
    assert sdk.files.delete(file.id).deleted
    assert list(sdk.files.list(purpose="fine-tune")) == []
    with pytest.raises(openai.APIStatusError, match="deleted"):
        sdk.files.retrieve(file.id)


def test_bad_rows_are_refused_at_the_upload_with_their_line(sdk):
    with pytest.raises(openai.BadRequestError) as refused:
        uploaded(sdk, data=rows(3) + b'{"messages": []}\n')
    assert refused.value.param is None or isinstance(refused.value.param, str)
    assert "Line 4" in refused.value.message
    assert list(sdk.files.list()) == []


def test_another_purpose_is_refused_and_nothing_is_kept(sdk):
    with pytest.raises(openai.BadRequestError, match="purpose") as refused:
        sdk.files.create(file=("a.jsonl", rows()), purpose="batch")
    assert (refused.value.param, refused.value.type) == ("purpose", "invalid_request_error")
    assert list(sdk.files.list()) == []


def test_a_field_after_the_file_counts_as_the_node_client_sends_it(world):
    edge = b"--x\r\n"
    file = edge + b'Content-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n' + rows() + b"\r\n"
    purpose = edge + b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert world.ask("POST", "/v1/files", content=file + purpose, headers=headers).json()["filename"] == "t.jsonl"
    refused = world.ask("POST", "/v1/files", content=file + b"--x--\r\n", headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "purpose")
    assert len(world.ask("GET", "/v1/files").json()["data"]) == 1


def test_pages_of_files_follow_each_other(sdk):
    made = [uploaded(sdk, f"f{n}.jsonl", rows(3 + n)).id for n in range(5)]
    assert [file.id for file in sdk.files.list(limit=2)] == made[::-1]


def test_a_supervised_job_with_the_fields_of_the_sdk(sdk):
    file, held_out = uploaded(sdk), uploaded(sdk, "held.jsonl", rows(4).replace(b"q", b"other q"))
    job = sdk.fine_tuning.jobs.create(
        model="luthier/tiny",
        training_file=file.id,
        validation_file=held_out.id,
        suffix="support",
        seed=7,
        metadata={"team": "mail"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}},
    )
    assert (job.status, job.seed, job.training_file, job.validation_file) == ("queued", 7, file.id, held_out.id)
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.learning_rate_multiplier == 0.5
    assert job.hyperparameters.batch_size == "auto"
    assert (job.method.type, job.metadata, job.error) == ("supervised", {"team": "mail"}, None)
    assert sdk.fine_tuning.jobs.retrieve(job.id) == job
    assert [each.id for each in sdk.fine_tuning.jobs.list(extra_query={"metadata[team]": "mail"})] == [job.id]
    assert list(sdk.fine_tuning.jobs.list(metadata={"team": "other"})) == []
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_job_is_paused_resumed_and_cancelled(sdk):
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=uploaded(sdk).id)
    assert (sdk.fine_tuning.jobs.pause(job.id).status, sdk.fine_tuning.jobs.retrieve(job.id).finished_at) == ("queued", None)
    assert sdk.fine_tuning.jobs.resume(job.id).status == "queued"
    sdk.fine_tuning.jobs.pause(job.id)
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        sdk.fine_tuning.jobs.resume(job.id)


def test_hyperparameters_at_their_older_place(sdk):
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=uploaded(sdk).id, hyperparameters={"n_epochs": 4})
    assert (job.model, job.hyperparameters.n_epochs) == ("luthier/tiny", 4)


def test_a_dpo_job(sdk):
    pair = {"input": {"messages": [{"role": "user", "content": "q"}]}}
    pair["preferred_output"] = [{"role": "assistant", "content": "good"}]
    pair["non_preferred_output"] = [{"role": "assistant", "content": "bad"}]
    data = b"".join(json.dumps(pair).replace('"q"', f'"q{n}"').encode() + b"\n" for n in range(6))
    job = sdk.fine_tuning.jobs.create(
        model="luthier/tiny",
        training_file=uploaded(sdk, "pairs.jsonl", data).id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
    )
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.2)


def test_a_reinforcement_job_with_a_grader(sdk):
    data = b"".join(
        json.dumps({"messages": [{"role": "user", "content": f"{n}+1="}], "answer": str(n + 1)}).encode() + b"\n"
        for n in range(6)
    )
    grader = {
        "type": "string_check",
        "name": "same",
        "operation": "eq",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
    }
    job = sdk.fine_tuning.jobs.create(
        model="luthier/tiny",
        training_file=uploaded(sdk, "sums.jsonl", data).id,
        method={"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {"compute_multiplier": 0.5}}},
    )
    assert (job.method.type, job.method.reinforcement.grader.name) == ("reinforcement", "same")


def test_a_job_on_a_model_that_is_not_allowed_says_which_are(sdk):
    with pytest.raises(openai.BadRequestError, match="not") as refused:
        sdk.fine_tuning.jobs.create(model="gpt-9", training_file=uploaded(sdk).id)
    assert (refused.value.code, refused.value.param) == ("model_not_allowed", "base_model")


def test_an_unknown_file_and_an_unknown_job(sdk):
    with pytest.raises(openai.NotFoundError):
        sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file="file-abc")
    with pytest.raises(openai.NotFoundError):
        sdk.fine_tuning.jobs.retrieve("ftjob-abc")


def test_unknown_fields_are_passed_over_and_named(world):
    body = {
        "model": "luthier/tiny",
        "training_file": world.dataset,
        "service_tier": "x",
        "method": {"type": "supervised", "new": 1},
    }
    answer = world.ask("POST", "/v1/fine_tuning/jobs?beta=1", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "beta, method.new, service_tier"


def test_what_is_unread_is_named_with_its_path():
    sent = {"model": "m", "training_file": "f", "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 1.0, "odd": 2}}}}
    assert list(unread(sent, JobCreate)) == ["method.dpo.hyperparameters.odd"]


def test_events_come_newest_first_in_pages(world, sdk):
    job_id = world.job()
    at = world.platform.now()
    steps = [Event(attempt=1, seq=n, at=at, kind="step", step=n, data={"loss": 2.0 / (n + 1)}) for n in range(5)]
    world.events(job_id, 1, *steps, Event(attempt=1, seq=5, at=at, kind="warning", level="warning", message="slow disk"))
    events = list(sdk.fine_tuning.jobs.list_events(job_id, limit=2))
    assert [event.id for event in events] == [f"ftevent-1-{n}" for n in (5, 4, 3, 2, 1, 0)]
    assert (events[0].level, events[0].type, events[0].message) == ("warn", "message", "slow disk")
    assert (events[1].type, events[1].data) == ("metrics", {"step": 4, "loss": 0.4})


def test_a_grader_is_tried_on_one_answer(sdk):
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {
            "same": {"type": "string_check", "operation": "eq", "reference": "{{ item.answer }}"},
            "near": {"type": "text_similarity", "evaluation_metric": "fuzzy_match", "reference": "{{ item.answer }}"},
        },
        "calculate_output": "0.5 * same + 0.5 * near",
    }
    said = sdk.post(
        "/fine_tuning/alpha/graders/run", body={"grader": grader, "model_sample": "5", "item": {"answer": "5"}}, cast_to=object
    )
    assert (said["reward"], said["sub_rewards"]) == (1.0, {"same": 1.0, "near": 1.0})
    simple = {**grader["graders"]["same"], "name": "same", "input": "{{ sample.output_text }}"}
    ran = sdk.fine_tuning.alpha.graders.run(grader=simple, model_sample="6", item={"answer": "5"})
    assert (ran.reward, ran.metadata.errors.other_error, ran.metadata.type) == (0.0, False, "string_check")
    assert sdk.fine_tuning.alpha.graders.validate(grader=simple).grader.name == "same"
    with pytest.raises(openai.BadRequestError, match="python"):
        sdk.fine_tuning.alpha.graders.validate(grader={"type": "python", "name": "p", "source": "1"})


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


def test_tuned_models_are_listed_by_their_name_and_found_by_it(world, sdk):
    model = world.model()
    names = [each.id for each in sdk.models.list()]
    assert "luthier/tiny" in names
    tuned = next(name for name in names if name.startswith("ft:luthier/tiny:"))
    assert sdk.models.retrieve(tuned).owned_by == world.actor.tenant_id
    assert sdk.models.retrieve("luthier/tiny").id == "luthier/tiny"
    assert sdk.models.delete(tuned).deleted
    assert model
    with pytest.raises(openai.APIStatusError):
        sdk.models.retrieve(tuned)
