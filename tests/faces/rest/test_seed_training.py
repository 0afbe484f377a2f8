"""`POST /train` without a base: the MNIST classifier of the seed, as its document says it."""

import gzip
import io
import zipfile

import pytest
from tests.faces.rest.conftest import World

FLAT = {"learning_rate": 0.002, "epochs": 4, "batch_size": 32, "hidden_size": 64}
MNIST = b"".join(b"%d,0,%d,255,0\n" % (at % 3, at % 200) for at in range(40))


def uploaded(world: World, name: str, data: bytes = MNIST) -> str:
    answer = world.upload(data, f"?name={name}")
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def job_of(world: World, answer) -> dict:
    assert answer.status_code == 200, answer.text
    return world.ask("GET", f"/api/jobs/{answer.json()['job_id']}").json()


def test_it_answers_as_the_document_says_and_trains_on_the_newest_images(world):
    uploaded(world, "old-digits")
    newest, held_out = uploaded(world, "mnist-train"), uploaded(world, "mnist-test")
    answer = world.ask("POST", "/train", json=FLAT)
    told = answer.json()
    assert told["job_id"] == told["task_id"]
    assert told["message"] == "Training job accepted and queued"
    assert (told["experiment_name"], told["status"]) == ("MNIST_Experiments", "queued")
    job = job_of(world, answer)
    assert (job["method"], job["name"], job["dataset"]) == ("classifier", "MNISTClassifier", newest)
    assert job["validation_dataset"] == held_out
    assert job["spec"]["classifier"] == {"model": "mnist-cnn", "hidden_size": 64}
    train = job["spec"]["train"]
    assert (train["learning_rate"], train["epochs"], train["batch_size"]) == (0.002, 4, 32)
    assert world.ask("GET", f"/train/status/{told['job_id']}").json()["experiment_name"] == "MNIST_Experiments"
    assert [each["id"] for each in world.ask("GET", "/train/jobs").json()["data"]] == [told["job_id"]]


def test_without_any_field_it_is_the_example_of_the_document(world):
    uploaded(world, "digits")
    job = job_of(world, world.ask("POST", "/train", json={}))
    train = job["spec"]["train"]
    assert (train["learning_rate"], train["epochs"], train["batch_size"]) == (0.001, 10, 64)
    assert job["spec"]["classifier"]["hidden_size"] == 128
    assert job["validation_dataset"] is None


def test_a_dataset_and_a_name_can_be_given(world):
    first, second = uploaded(world, "digits"), uploaded(world, "others")
    wanted = {"dataset": first, "validation_dataset": second, "name": "mine", "seed": 7}
    job = job_of(world, world.ask("POST", "/train", json=wanted))
    assert (job["dataset"], job["validation_dataset"], job["name"], job["spec"]["seed"]) == (first, second, "mine", 7)


def test_the_only_images_are_learned_even_where_they_are_called_a_test(world):
    only = uploaded(world, "my_test")
    job = job_of(world, world.ask("POST", "/train", json={}))
    assert (job["dataset"], job["validation_dataset"]) == (only, None)


@pytest.mark.parametrize("name", ["latest", "contest-digits", "values", "medieval"])
def test_only_whole_words_make_a_dataset_one_to_measure_on(world, name):
    newest = uploaded(world, name)
    uploaded(world, "mnist-test")
    assert job_of(world, world.ask("POST", "/train", json={}))["dataset"] == newest


def test_a_team_without_images_learns_the_built_in_digits_and_has_them_from_then_on(tmp_path):
    world = World(tmp_path / "data", import_from="s3://open/")
    job = job_of(world, world.ask("POST", "/train", json=FLAT))
    listed = {each["name"]: each for each in world.ask("GET", "/api/datasets").json()["data"]}
    train, test = listed["digits-train"], listed["digits-test"]
    assert (job["dataset"], job["validation_dataset"]) == (train["id"], test["id"])
    assert train["rows"] + test["rows"] == 1797
    again = job_of(world, world.ask("POST", "/train", json=FLAT))
    assert again["dataset"] == train["id"]
    assert len(world.ask("GET", "/api/datasets").json()["data"]) == 2
    world.platform.close()


def test_without_images_and_without_scikit_learn_it_says_what_to_upload(world):
    assert world.dataset  # rows for a language model
    error = world.ask("POST", "/train", json={"hidden_size": 128}).json()["error"]
    assert (error["param"], error["code"]) == ("dataset", "missing")
    assert "POST /api/datasets" in error["hint"]


def test_a_dataset_for_a_language_model_needs_a_base(world):
    error = world.ask("POST", "/train", json={"dataset": world.dataset}).json()["error"]
    assert (error["param"], error["code"]) == ("base_model", "missing")
    assert world.ask("POST", "/train", json={"dataset": "ds_00000000000000000000000000"}).status_code == 404


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("learning_rate", 2), ("batch_size", 0), ("epochs", "ten"), ("depth", 3)]
)
def test_values_that_cannot_be_are_refused_by_name(world, field, value):
    uploaded(world, "digits")
    answer = world.ask("POST", "/train", json={field: value})
    assert answer.status_code == 422
    assert field in answer.text
    assert world.ask("GET", "/train/jobs").json()["data"] == []


def test_the_files_of_mnist_are_uploaded_as_they_were_published(world):
    images = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (12, 2, 2)) + bytes(range(48))
    labels = b"\0\0\x08\x01" + (12).to_bytes(4, "big") + bytes([0, 1, 2] * 4)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train-images-idx3-ubyte.gz", gzip.compress(images))
        archive.writestr("train-labels-idx1-ubyte.gz", gzip.compress(labels))
    answer = world.upload(file.getvalue(), "?name=mnist-train").json()
    assert (answer["report"]["format"], answer["rows"], answer["report"]["labels"]) == ("idx", 12, {"0": 4, "1": 4, "2": 4})
    assert job_of(world, world.ask("POST", "/train", json={}))["dataset"] == answer["id"]
