"""A job without a base: what is refused at submit, what it takes, and that it shares with nobody."""

import json

import pytest

from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.datasets.types import Upload
from luthier.errors import FieldInvalid, WillNotFit
from luthier.jobs.rules import verdict
from luthier.jobs.service import Jobs, JobServices
from luthier.jobs.sharing import Sharing
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Line

ROWS = b"".join(b"%d,0,%d,255,0\n" % (at % 3, at % 200) for at in range(400))


@pytest.fixture
def images(bench, alice) -> str:
    return bench.datasets.upload(alice, Upload(chunks=[ROWS], name="digits")).id


def asked(dataset: str, **changes) -> RunSpec:
    return RunSpec.model_validate({"method": "classifier", "dataset": dataset, **changes})


def test_the_name_of_the_model_stands_for_the_base(bench, alice, images):
    job = bench.jobs.submit(alice, asked(images, validation_dataset=images)).job
    assert (job.base_model, job.method) == ("mnist-cnn", "classifier")
    frozen = json.loads(bench.here(job).read_spec())
    assert frozen["base_model"] == frozen["sources"]["base"]["id"] == "mnist-cnn"
    assert frozen["sources"]["base"]["url"] == "classifier:mnist-cnn"
    assert frozen["sources"]["base"]["revision"].startswith("luthier ")


def test_steps_are_counted_as_the_trainer_counts_them(bench, alice, images):
    train = {"epochs": 5, "batch_size": 64}
    estimate = bench.jobs.estimate(alice, asked(images, train=train))
    assert (estimate.rows, estimate.steps, estimate.batch_size, estimate.tokens) == (400, 35, 64, 2000)
    forest = bench.jobs.estimate(alice, asked(images, train=train, classifier={"model": "random-forest"}))
    assert (forest.steps, forest.tokens) == (1, 400)


def test_words_and_classes_of_a_linear_model_take_memory(bench, alice):
    rows = b"text,label\n" + b"".join(b"word,class %d\n" % at for at in range(150)) * 2
    texts = bench.datasets.upload(alice, Upload(chunks=[rows], name="intents")).id
    linear = bench.jobs.estimate(alice, asked(texts, classifier={"model": "logistic-regression"})).memory
    network = bench.jobs.estimate(alice, asked(texts)).memory
    assert linear.total_bytes - network.total_bytes == 23 * 8 * 20_000 * 150


def test_an_unknown_model_is_refused_with_those_that_are_known(bench, alice, images):
    with pytest.raises(FieldInvalid, match="no classifier of this name") as refused:
        bench.jobs.submit(alice, asked(images, classifier={"model": "resnet"}))
    assert (refused.value.param, "random-forest" in refused.value.hint) == ("classifier.model", True)
    assert bench.jobs.list(alice).data == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"train": {"eval_steps": 10_000}}, "train.eval_steps"), ({"kind": "fit_test"}, "kind")],
)
def test_what_can_never_come_to_be_is_refused(bench, alice, images, changes, param):
    with pytest.raises(FieldInvalid) as refused:
        bench.jobs.submit(alice, asked(images, **changes))
    assert refused.value.param == param


def test_rows_that_memory_cannot_hold_are_refused(bench, alice, images):
    billing = Billing(bench.database, bench.times.now, Machine(memory_bytes=700_000_000, cores=4))
    services = JobServices(bench.accounts, billing, bench.bases, bench.datasets, bench.models)
    with pytest.raises(WillNotFit, match=r"needs about 0\.8 GB"):
        Jobs(bench.database, bench.storage, services, bench.times.now).submit(alice, asked(images))


def test_a_classifier_shares_its_trainer_with_nobody(bench, alice, images):
    for _ in range(2):
        bench.jobs.submit(alice, asked(images))
    claims = [bench.queue.claim("host/one", Line(frozenset({"local-cpu"})), Sharing(most=4)) for _ in range(2)]
    assert [len(claim) for claim in claims] == [1, 1]


def test_the_checks_of_a_classifier_say_whether_answers_differ_not_whether_a_base_was_changed():
    checks = {"finite": True, "answers_differ": False, "loads_again": True}
    assert verdict(checks) is None
    assert verdict({**checks, "finite": False}).code == "diverged"
    assert verdict({**checks, "loads_again": False}).code == "storage"


# -- on a base ---------------------------------------------------------------------------------------------------------


def labelled(bench, alice, name: str, *rows: str) -> str:
    data = "text,label\n" + "".join(f"{row}\n" for row in rows)
    return bench.datasets.upload(alice, Upload(chunks=[data.encode()], name=name)).id


@pytest.fixture
def intents(bench, alice) -> str:
    return labelled(bench, alice, "intents", *[f"say {at},{'ab'[at % 2]}" for at in range(40)])


def on_tiny(dataset: str, **changes) -> RunSpec:
    return asked(dataset, base_model="luthier/tiny", **changes)


def test_with_a_base_it_is_an_adapter_and_shares_its_trainer(bench, alice, intents):
    jobs = [bench.jobs.submit(alice, on_tiny(intents, validation_dataset=intents)).job for _ in range(2)]
    assert {(job.base_model, job.method) for job in jobs} == {("luthier/tiny", "classifier")}
    frozen = json.loads(bench.here(jobs[0]).read_spec())
    assert frozen["sources"]["base"]["id"] == "luthier/tiny"
    claim = bench.queue.claim("host/one", Line(frozenset({"local-cpu"})), Sharing(most=4))
    assert len(claim) == len(jobs)


def test_its_estimate_counts_tokens(bench, alice, intents):
    estimate = bench.jobs.estimate(alice, on_tiny(intents, train={"epochs": 2, "batch_size": 8}))
    assert (estimate.rows, estimate.steps) == (40, 10)
    assert estimate.tokens > estimate.rows
    assert estimate.memory.base_bytes > 0


def test_images_are_not_read_by_a_base(bench, alice, images):
    with pytest.raises(FieldInvalid, match="reads texts") as refused:
        bench.jobs.submit(alice, on_tiny(images))
    assert refused.value.param == "base_model"


def test_labels_that_cannot_be_learned_or_measured_are_refused_at_submit(bench, alice, intents):
    each = labelled(bench, alice, "free", "a,one", "b,two", "c,three")
    with pytest.raises(FieldInvalid, match="a label of its own") as refused:
        bench.jobs.submit(alice, on_tiny(each))
    assert refused.value.param == "dataset"
    other = labelled(bench, alice, "held-out", "say,a", "tell,c")
    with pytest.raises(FieldInvalid, match="1 of 2 labels of the validation rows") as refused:
        bench.jobs.submit(alice, on_tiny(intents, validation_dataset=other))
    assert (refused.value.param, refused.value.details) == ("validation_dataset", {"labels": ["c"]})


def test_a_base_beside_a_model_from_scratch_is_refused(intents):
    with pytest.raises(ValueError, match="leave out `base_model`"):
        on_tiny(intents, classifier={"model": "logistic-regression"})
