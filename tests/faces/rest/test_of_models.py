"""Runs about a model, by REST: what is refused, and the files of an export."""

import pytest

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 8}


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]


@pytest.fixture
def submit(world):
    return lambda **body: world.ask("POST", "/api/jobs", json=body)


def test_an_evaluation_is_queued_about_its_model(world, submit):
    model = world.model()
    answer = submit(kind="evaluate", model="intents@1", dataset=world.dataset)
    assert answer.status_code == 201
    job = answer.json()["job"]
    assert (job["kind"], job["model"], job["dataset"], job["spec"]["model"]) == ("evaluate", model.id, world.dataset, model.id)
    assert "files" not in answer.text
    refused(world.ask("DELETE", f"/api/models/{model.id}"), 409, "in_use")
    assert world.ask("POST", f"/api/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert world.ask("DELETE", f"/api/models/{model.id}").status_code == 204


@pytest.mark.parametrize("path", ["/api/models/{}", "/models/{}", "/v1/models/{}"])
def test_a_version_that_answers_is_not_deleted_by_any_path(world, path):
    model = world.model()
    folder = world.platform.registry.weights(world.actor, model)
    with world.platform.registry.copies.holding(folder):  # as long as it answers
        error = refused(world.ask("DELETE", path.format(model.id)), 409, "in_use")
        assert "is being served" in error["message"]
        assert "hang up" in error["hint"]
    assert world.ask("DELETE", path.format(model.id)).status_code in {200, 204}
    assert not folder.exists()


def test_what_cannot_be_is_refused_with_the_field(world, submit):
    model, other = world.model(), world.model(world.stranger, "theirs")
    unknown = refused(submit(kind="export", model="model_" + "0" * 26, export={"format": "merged"}), 404, "not_found")
    foreign = refused(submit(kind="export", model=other.id, export={"format": "merged"}), 404, "not_found")
    assert {**unknown, "request_id": 0} == {**foreign, "request_id": 0}
    assert refused(submit(kind="evaluate", dataset=world.dataset), 422, "missing")["param"] == "model"
    assert refused(submit(kind="evaluate", model=model.id), 422, "missing")["param"] == "dataset"
    assert (
        refused(submit(kind="export", model=model.id, export={"format": "zip"}), 422, "literal_error")["param"] == "export.format"
    )
    lora = refused(submit(kind="export", model=model.id, export={"format": "merged"}, lora={"rank": 2}), 422, "invalid_value")
    assert "`lora` is no field of a run of the kind export" in lora["message"]
    method = {"method": "dpo", "dataset": world.dataset}
    assert refused(submit(kind="evaluate", model=model.id, **method), 422, "invalid_field")["param"] == "dataset"


def test_the_files_of_an_export_come_whole_or_in_ranges(world):
    job_id = world.export(world.model())
    refused(world.ask("GET", f"/api/jobs/{job_id}/files"), 409, "wrong_state")
    world.end_export(FILES)
    listed = world.ask("GET", f"/api/jobs/{job_id}/files").json()["data"]
    assert [(file["name"], file["bytes"]) for file in listed] == [(name, len(data)) for name, data in FILES.items()]
    path = f"/api/jobs/{job_id}/files/model.safetensors"
    assert world.ask("GET", path).content == FILES["model.safetensors"]
    part = world.ask("GET", path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    refused(world.ask("GET", path, headers={"range": "bytes=9999999-"}), 416, "range_invalid")
    refused(world.ask("GET", f"/api/jobs/{job_id}/files/..%2Fexport.json"), 404, "not_found")


def test_a_file_that_rotted_is_not_served(world):
    job_id = world.export(world.model())
    folder = world.end_export(FILES)
    world.platform.storage.write(f"{folder}/config.json", b"[]")
    refused(world.ask("GET", f"/api/jobs/{job_id}/files/config.json"), 409, "artifact_corrupt")
    world.platform.storage.write(f"{folder.rpartition('/')[0]}/export.json", b"[]")
    refused(world.ask("GET", f"/api/jobs/{job_id}/files"), 409, "artifact_corrupt")


def test_only_an_export_has_files_and_only_for_its_owner(world):
    refused(world.ask("GET", f"/api/jobs/{world.job()}/files"), 409, "wrong_state")
    refused(world.ask("GET", f"/api/jobs/job_{'0' * 26}/files"), 404, "not_found")
