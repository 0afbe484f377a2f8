"""The whole life of a model through the official SDK alone: real server, real trainer, real engine."""

import json
import time

import openai
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

TERMINAL = {"succeeded", "failed", "cancelled"}


def rows(count, start=0):
    lines = (
        {"messages": [{"role": "user", "content": f"Say colour {n}"}, {"role": "assistant", "content": f"blue {n % 4}"}]}
        for n in range(start, start + count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def ended(sdk, job_id):
    until = time.monotonic() + 300
    while (job := sdk.fine_tuning.jobs.retrieve(job_id)).status not in TERMINAL:
        assert time.monotonic() < until, job
        time.sleep(0.2)
    return job


def test_unchanged_code_trains_and_chats(house):
    client = house.start(LUTHIER_MODEL_ALIASES="gpt-4o-mini-2024-07-18=luthier/tiny")
    key = (house.data / "admin.key").read_text().strip()
    with openai.OpenAI(base_url=f"{house.url()}/v1", api_key=key, max_retries=0, _strict_response_validation=True) as sdk:
        file = sdk.files.create(file=("colours.jsonl", rows(60)), purpose="fine-tune")
        held_out = sdk.files.create(file=("held-out.jsonl", rows(8, 60)), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(
            model="gpt-4o-mini-2024-07-18",
            training_file=file.id,
            validation_file=held_out.id,
            suffix="colours",
            seed=1,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 15}},
            },
        )
        assert job.status == "queued"
        done = ended(sdk, job.id)
        assert done.status == "succeeded", house.log()
        assert done.fine_tuned_model.startswith("ft:luthier/tiny:")
        events = list(sdk.fine_tuning.jobs.list_events(job.id, limit=50))
        assert any(event.type == "metrics" for event in events)
        checkpoints = sdk.fine_tuning.jobs.checkpoints.list(job.id).data
        assert checkpoints
        assert checkpoints[0].step_number > 0

        asked = {"messages": [{"role": "user", "content": "Say colour 3"}], "max_tokens": 8, "temperature": 0}
        whole = sdk.chat.completions.create(model=done.fine_tuned_model, **asked)
        pieces = sdk.chat.completions.create(model=done.fine_tuned_model, stream=True, **asked)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert streamed == whole.choices[0].message.content
        form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": {"enum": ["good", "bad"]}}}
        guided = sdk.chat.completions.create(model="gpt-4o-mini-2024-07-18", response_format=form, **{**asked, "max_tokens": 40})
        assert json.loads(guided.choices[0].message.content) in {"good", "bad"}
        told = sdk.chat.completions.create(model=done.fine_tuned_model, logprobs=True, top_logprobs=2, **asked)
        assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in told.choices[0].logprobs.content)

        again = sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file=file.id)
        assert sdk.fine_tuning.jobs.cancel(again.id).status in {"cancelled", "queued", "running"}
        assert ended(sdk, again.id).status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            sdk.chat.completions.create(model="ft:luthier/tiny:team_x:nothing:00000000", **asked)
        assert sdk.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    assert client.models.get(client.jobs.get(job.id).model_id).name == "colours"
