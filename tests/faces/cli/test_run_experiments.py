"""`run_experiments`: what is drawn, what is best, and what is refused. Real runs: tests/journeys/test_experiments.py."""

import pytest

from luthier.faces.cli.run_experiments import Draw, Tried, best_of, draws
from luthier.faces.sdk.answers import Job, Model

POINT = Draw(0.001, 3, 32, 64)


def tried(accuracy: float | None) -> Tried:
    evaluation = {"evaluation": {"tuned": {"loss": 0.1, "metrics": {"accuracy": accuracy}}}} if accuracy is not None else {}
    return Tried(POINT, Job({"id": "job_1", "state": "succeeded"}), Model({"id": "model_1", "card": evaluation}))


def test_the_same_seed_draws_the_same_points_within_their_bounds():
    points = draws(50, seed=3)
    assert points == draws(50, seed=3) != draws(50, seed=4)
    assert all(1e-4 <= point.learning_rate <= 1e-2 for point in points)
    assert len(set(points)) > 40


def test_the_best_is_the_most_accurate_and_the_first_of_equals():
    runs = [tried(0.5), Tried(POINT, Job({"id": "job_2", "state": "failed"}), None), tried(0.9), tried(0.9), tried(None)]
    assert best_of(runs) is runs[2]
    assert best_of([tried(None)]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--stage", "Live"), "--stage is one of Staging, Production"), (("--num-runs", "0"), "--num-runs")],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(terminal, fake, words, said):
    ended = terminal("run_experiments", *words)
    assert ended.code == 2
    assert said in ended.err
    assert not fake.asked


def test_without_images_it_says_what_to_upload(terminal, world):
    ended = terminal("run_experiments", "--num-runs", "1")
    assert ended.code == 1
    assert "There are no labelled images" in ended.err
