"""scikit-learn's estimators: grown in parts or in one go, they are the same; a stop is heard between parts."""

from datetime import UTC, datetime

import numpy as np
import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import JobDirectory
from luthier.modeling.classifiers.registry import entry_of, options_of
from luthier.modeling.classifiers.types import Shape
from luthier.training.classifiers.data import Samples
from luthier.training.classifiers.sklearn_fit import fit
from luthier.training.failures import AttemptFailed, Stopping
from luthier.training.journal import Journal
from luthier.training.watch import Watch

from .conftest import samples, shades, texts


class Bench:
    """An attempt's directory, and what a fit needs of it."""

    def __init__(self, folder) -> None:
        self.job = JobDirectory(LocalStorage(folder), "")
        self.journal = Journal(self.job.attempt(1), lambda: datetime(2026, 11, 21, tzinfo=UTC), say=False)
        self.watch = Watch(self.job.control, 1)

    def fit(self, name, data, **options):
        entry = entry_of(name)
        estimator = entry.build(options_of(entry, options), Shape(data.reads, data.pixels, len(data.classes)), 7)
        fit(entry, estimator, data, self.journal, self.watch)
        return estimator

    def warnings(self):
        return [event.message for event in self.job.events() if event.kind == "warning"]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize("data", [samples(shades(60)), samples(texts(60))], ids=["images", "texts"])
def test_a_forest_that_grew_in_parts_is_the_one_that_grew_at_once(bench, data):
    entry = entry_of("random-forest")
    parts = bench.fit("random-forest", data, n_estimators=33)
    at_once = entry.build(options_of(entry, {"n_estimators": 33}), Shape(data.reads, data.pixels, 3), 7)
    at_once.fit(data.inputs, data.labels)
    np.testing.assert_array_equal(parts.predict_proba(data.inputs), at_once.predict_proba(data.inputs))
    assert parts.get_params().keys() == at_once.get_params().keys()
    assert (bench.journal.status.step, bench.journal.status.total_steps) == (20, 20)


def test_a_stop_is_heard_between_two_parts(bench):
    told = bench.journal.progress

    def progress(done):
        told(done)
        bench.watch.ask("stopped")

    bench.journal.progress = progress
    with pytest.raises(Stopping):
        bench.fit("random-forest", samples(shades(30)), n_estimators=40)
    assert bench.journal.status.step == 1


def test_what_scikit_learn_warns_about_is_told(bench):
    bench.fit("logistic-regression", samples(shades(60)), max_iter=1)
    assert any(said.startswith("ConvergenceWarning: ") for said in bench.warnings())


def test_texts_without_a_single_word_are_refused(bench):
    with pytest.raises(AttemptFailed, match="empty vocabulary") as refused:
        bench.fit("logistic-regression", Samples(["...", "!!!"], np.array([0, 1]), ("a", "b")))
    assert refused.value.failure.code == "bad_data"
