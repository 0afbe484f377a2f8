"""The commands against the real REST app: what a user types, and what comes out on which stream."""

import json

import pytest

from luthier.faces.cli.watching import taken_in
from luthier.faces.sdk.answers import Job


@pytest.fixture
def dataset(world, terminal, rows) -> str:
    return terminal("dataset", "upload", "--file", str(rows)).out.strip()


@pytest.fixture
def job(terminal, dataset) -> str:
    return terminal("tune", "start", "--model", "luthier/tiny", "--dataset", dataset, "--epochs", "1").out.strip()


def test_an_upload_prints_the_id_on_stdout_and_its_report_on_stderr(world, terminal, rows):
    ended = terminal("dataset", "upload", "--file", str(rows), "--name", "support")
    assert ended.code == 0
    assert ended.out.startswith("ds_")
    assert ended.out.count("\n") == 1
    assert "12 usable of 12 (chat)" in ended.err
    listed = terminal("dataset", "list")
    assert "support@1" in listed.out
    assert ended.out.strip() in listed.out


def test_a_refused_file_names_each_line_and_what_to_do(world, terminal, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "q"}]}\n{"a"\n')
    ended = terminal("dataset", "upload", str(bad))
    assert ended.code == 1
    assert ended.out == ""
    assert "line 1: " in ended.err
    assert "line 2: " in ended.err
    refused = terminal("dataset", "upload", str(bad), "--json")
    assert refused.json["error"]["details"]["errors"] == 2


def test_a_dataset_may_come_through_stdin(world, terminal, rows):
    ended = terminal("dataset", "upload", "-", "--name", "piped", typed=rows.read_bytes())
    assert ended.code == 0, ended.err
    assert terminal("dataset", "show", ended.out.strip(), "--json").json["name"] == "piped"


def test_start_prints_the_id_on_stdout_and_the_estimate_on_stderr(world, terminal, dataset):
    ended = terminal("tune", "start", "--model", "luthier/tiny", "--dataset", dataset, "--epochs", "1", "--rank", "4")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("job_")
    assert ended.out.count("\n") == 1
    assert "fits" in ended.err
    assert "about $0.00" in ended.err
    shown = terminal("tune", "status", "--job-id", ended.out.strip(), "--json").json
    assert (shown["state"], shown["spec"]["train"]["epochs"], shown["spec"]["lora"]["rank"]) == ("queued", 1, 4)
    rate = shown["chosen"]["learning_rate"]
    with_numbers = terminal("tune", "status", ended.out.strip()).out
    assert f"1 epoch, 1 row a pass, learning rate {rate:g}\n" in with_numbers


def test_a_config_says_how_and_flags_say_on_what(world, terminal, dataset, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("base_model: other/base\ntrain: {max_steps: 2, learning_rate: 1e-4}\nname: from-file\n")
    ended = terminal(
        "tune", "start", "--model", "luthier/tiny", "--config", str(config), "--dataset", dataset, "--name", "mine", "--json"
    )
    spec = ended.json["job"]["spec"]
    assert (spec["base_model"], spec["name"], spec["train"]["learning_rate"]) == ("luthier/tiny", "mine", 1e-4)
    assert ended.json["estimate"]["steps"] == 2


def test_the_same_idempotency_key_gives_the_same_job_again(world, terminal, dataset):
    start = ("tune", "start", "--model", "luthier/tiny", "--dataset", dataset, "--idempotency-key", "k1")
    first, second = terminal(*start), terminal(*start)
    assert first.out == second.out
    assert "used before" in second.err


def test_an_estimate_reserves_nothing(world, terminal, dataset):
    ended = terminal("tune", "estimate", "--model", "luthier/tiny", "--dataset", dataset, "--json")
    assert ended.json["fits"] is True
    assert terminal("tune", "list", "--json").json == {"data": [], "next_cursor": None}


def test_a_dataset_may_be_named_by_its_name_or_version(world, terminal, rows, dataset, tmp_path):
    newer = terminal("dataset", "upload", str(rows), "--name", "named").out.strip()
    newest = terminal("dataset", "upload", str(rows), "--name", "named").out.strip()
    assert terminal("dataset", "show", "named", "--json").json["id"] == newest
    assert terminal("dataset", "show", "named@1", "--json").json["id"] == newer
    started = terminal("tune", "start", "--model", "luthier/tiny", "--dataset", "named@1", "--validation", dataset, "--json")
    spec = started.json["job"]["spec"]
    assert (spec["dataset"], spec["validation_dataset"]) == (newer, dataset)
    assert terminal("tune", "estimate", "--model", "luthier/tiny", "--dataset", "named", "--json").json["fits"] is True
    assert terminal("dataset", "preview", "named", "--json").json["data"]
    assert terminal("dataset", "samples", "named@2", "--json").json["data"]
    terminal("dataset", "download", "named@2", "-o", str(tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == rows.read_bytes()
    assert terminal("dataset", "show", "named@3").code == 4
    assert terminal("tune", "start", "--model", "luthier/tiny", "--dataset", "nothing").code == 4
    vague = terminal("dataset", "delete", "named", "--yes")
    assert (vague.code, "named@1" in vague.err) == (2, True)
    assert terminal("dataset", "delete", "named@2", "--yes", "--json").json["id"] == newest


@pytest.mark.parametrize("named", [["{job}"], ["--job-id", "{job}"], ["{job}", "--job-id", "{job}"]])
def test_an_id_stands_by_itself_or_behind_its_flag(world, terminal, job, named):
    ended = terminal("tune", "status", *[word.format(job=job) for word in named])
    assert ended.code == 0
    assert job in ended.out


def test_a_job_is_cancelled_listed_and_paid(world, terminal, job):
    ended = terminal("tune", "cancel", "--job-id", job)
    assert ("cancelled" in ended.out, "for good" in ended.err) == (True, True)
    assert "ended already: cancelled" in terminal("tune", "stop", job).err
    listed = terminal("tune", "list").out.splitlines()
    assert listed[0].split() == ["ID", "NAME", "STATE", "STEP", "LOSS", "COST", "CREATED"]
    assert listed[1].startswith(job)
    assert "$0.00" in terminal("tune", "cost", "--job-id", job).out
    assert terminal("tune", "cost", job, "--json").json["job_id"] == job
    assert terminal("tune", "billing", "--json").json["period"]
    assert terminal("tune", "billing", "--history", "--json").json["next_cursor"] is None
    assert "cost" in terminal("tune", "billing").out
    assert terminal("tune", "billing", "--history").out.split() == ["AT", "JOB", "HARDWARE", "TIME", "AMOUNT", "WHY"]
    assert terminal("tune", "delete", job).code == 0
    assert terminal("tune", "status", job).code == 4


def test_a_running_job_cannot_be_resumed(world, terminal, job):
    ended = terminal("tune", "resume", job)
    assert ended.code == 1
    assert "wrong_state" in ended.err


def test_logs_and_events_of_a_job_that_waits_are_empty(world, terminal, job):
    assert terminal("tune", "logs", job).out == ""
    assert terminal("tune", "logs", job, "--json").json["text"] == ""
    assert terminal("tune", "events", "--job-id", job, "--json").json == []


def test_pricing_and_health_need_no_job(world, terminal, monkeypatch):
    assert "local-cpu" in terminal("tune", "pricing").out
    assert terminal("tune", "pricing", "--json").json["data"][0]["hardware"] == "local-cpu"
    monkeypatch.delenv("LUTHIER_API_KEY")
    health = terminal("tune", "health", "--json")
    assert (health.code, health.json["database"], health.json["supervisor"]) == (1, "ok", "absent")
    assert "supervisor      absent" in terminal("tune", "health").out


def test_a_dataset_is_downloaded_once_and_only_replaced_when_asked_to(world, terminal, dataset, rows):
    ended = terminal("dataset", "download", "--dataset-id", dataset)
    assert ended.out.strip() == f"{dataset}.jsonl"
    target = terminal.folder / f"{dataset}.jsonl"
    assert target.read_bytes() == rows.read_bytes()
    target.write_text("precious")
    again = terminal("dataset", "download", dataset)
    assert again.code == 2
    assert "--force" in again.err
    assert target.read_text() == "precious"
    assert terminal("dataset", "download", dataset, "--force").code == 0
    assert target.read_bytes() == rows.read_bytes()
    assert [path.name for path in terminal.folder.glob("*.part")] == []


def test_a_dataset_is_shown_and_deleted(world, terminal, dataset):
    assert "12 usable" in terminal("dataset", "show", dataset).out
    assert terminal("dataset", "delete", dataset, "--json").json == {"id": dataset, "deleted": True}
    assert terminal("dataset", "show", dataset).code == 4


def test_a_model_is_listed_shown_downloaded_and_deleted(world, terminal):
    model = world.model()
    assert "intents@1" in terminal("model", "list").out
    assert "not measured" in terminal("model", "show", "intents@1").out
    assert json.loads(terminal("model", "card", model.id).out)["lineage"]["seed"] == 42
    assert terminal("model", "card", model.id, "--json").json["name"] == "intents"

    assert terminal("model", "download", "--model-id", model.id).out.strip() == model.id
    folder = terminal.folder / model.id
    assert sorted(path.name for path in folder.iterdir())
    assert terminal("model", "download", model.id).code == 0  # the same files: nothing to ask
    (folder / "adapter_config.json").write_text("mine")
    assert terminal("model", "download", model.id).code == 2
    assert terminal("model", "download", model.id, "--force").code == 0

    refused = terminal("model", "promote", model.id)
    assert refused.code == 1
    assert "evaluation_needed" in refused.err
    assert terminal("model", "promote", model.id, "--stage", "staging").out.split() == [model.id, "Staging"]
    assert terminal("model", "promote", model.id, "--stage", "Moon").code == 2
    assert terminal("model", "delete", "intents@1").code == 0
    assert terminal("model", "show", model.id).code == 4


def test_chat_answers_once_or_line_by_line_and_keeps_the_conversation(world, terminal):
    world.build_base()
    once = terminal("model", "chat", "luthier/tiny", "--once", "Hello")
    assert once.code == 0, once.err
    assert once.out.strip()
    assert (
        terminal("model", "chat", "luthier/tiny", "--once", "Hello", "--json").json["choices"][0]["message"]["role"]
        == "assistant"
    )
    typed = b"one\n/save talk.jsonl\n/reset\ntwo\n/save again.jsonl\n/save talk.jsonl\n/what\n/exit\nthree\n"
    loop = terminal("model", "chat", "--model-id", "luthier/tiny", "--system", "Be brief.", typed=typed)
    assert loop.code == 0
    saved = json.loads((terminal.folder / "talk.jsonl").read_text())["messages"]
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    again = json.loads((terminal.folder / "again.jsonl").read_text())["messages"]
    assert [message["content"] for message in again[:2]] == ["Be brief.", "two"]
    assert "talk.jsonl cannot be written: File exists" in loop.err
    assert "/exit ends" in loop.err


def test_two_models_are_asked_the_same_and_each_goes_on_from_its_own_answers(world, terminal):
    world.build_base()
    typed = b"one\ntwo\n/save both.jsonl\n/reset\n/save empty.jsonl\n"
    ended = terminal("model", "chat", "--model", "luthier/tiny", "--versus", "tiny", typed=typed)
    assert ended.code == 0, ended.err
    assert ended.out.count("luthier/tiny:\n") == ended.out.count("tiny:\n") - 2 == 2
    rows = [json.loads(line)["messages"] for line in (terminal.folder / "both.jsonl").read_text().splitlines()]
    assert [[message["content"] for message in row[::2]] for row in rows] == [["one", "two"], ["one", "two"]]
    assert json.loads((terminal.folder / "empty.jsonl").read_text().splitlines()[0]) == {"messages": []}
    assert terminal("model", "chat", "luthier/tiny", "--versus", "nobody", "--once", "Hello").code == 4
    assert terminal("model", "chat", "luthier/tiny", "--versus", "tiny", "--once", "Hello", "--json").code == 2


def test_json_of_a_conversation_is_refused(world, terminal):
    ended = terminal("model", "chat", "luthier/tiny", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "usage")


def test_a_job_that_waits_for_approval_is_no_queued_one():
    assert "tune approve job_1" in taken_in(Job({"id": "job_1", "state": "awaiting_approval"}))
    assert taken_in(Job({"id": "job_1", "state": "queued"})).startswith("Queued")


def test_a_job_that_was_stopped_in_the_line_is_told_so(world, terminal, job):
    stopped = terminal("tune", "stop", job)
    assert (stopped.out.split()[1], "tune resume" in stopped.err) == ("stopped", True)
    told = terminal("tune", "history", job).out.splitlines()
    assert [line.split()[3] for line in told[1:]] == ["queued", "stopped"]
    assert terminal("tune", "history", job, "--json").json["data"][0]["from_state"] is None
