"""Drift of a real classifier behind a real server: darker images than it knows raise the alarm, others do not."""

import random

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

WINDOW = 60


def image(chance: random.Random, light: float = 1.0) -> list[float]:
    """4 x 4 pixels; a bright upper half is 1."""
    upper = chance.randrange(2)
    return [
        round((0.6 + 0.4 * chance.random() if half == upper else 0.2 * chance.random()) * light, 3)
        for half in (1, 0)
        for _ in range(8)
    ]


def rows(path, count: int, seed: int):
    chance, lines = random.Random(seed), ["label," + ",".join(f"pixel{number}" for number in range(16))]
    for _ in range(count):
        pixels = image(chance)
        lines.append(",".join(map(str, (int(sum(pixels[:8]) > sum(pixels[8:])), *pixels))))
    path.write_text("\n".join(lines) + "\n")
    return path


def judged(house, client, number: int):
    """The window with this number, once it is there."""
    house.wait_until(lambda: len(client.drift.status("halves").data[0].windows) >= number, f"window {number} is judged")
    found = client.drift.status("halves").data[0]
    assert found.windows[0].number == number
    return found


def test_the_alarm_is_raised_by_what_the_model_does_not_know_and_by_nothing_else(house, tmp_path):
    client, chance = house.start(LUTHIER_DRIFT_WINDOW=str(WINDOW)), random.Random(3)
    data = client.datasets.upload(rows(tmp_path / "rows.csv", 200, 1), name="halves-rows")
    held_out = client.datasets.upload(rows(tmp_path / "held.csv", 200, 2), name="halves-held-out")
    spec = {"method": "classifier", "dataset": data.id, "validation_dataset": held_out.id}
    job = client.jobs.submit({**spec, "name": "halves", "classifier": {"model": "logistic-regression"}}).job.id
    house.wait_until(lambda: client.jobs.get(job).finished, "it has learned", 180)
    ended = client.jobs.get(job)
    assert ended.state == "succeeded", house.log()
    client.models.transition(ended.model_id, "Production")
    client.drift.watch("halves", 1)
    for _ in range(WINDOW):
        client.predict(image=image(chance), model="halves")
    steady = judged(house, client, 1)
    assert (steady.state, steady.reference_of) == ("steady", "held_out")
    for _ in range(WINDOW):
        client.predict(image=image(chance, light=0.4), model="halves")
    drifted = judged(house, client, 2)
    assert drifted.state == "drifted"
    assert {"brightness", "confidence"} <= {measure.name for measure in drifted.windows[0].measures if measure.drifted}
    assert float(drifted.windows[0].retrain.cost_usd) >= 0
    assert drifted.windows[0].retrain.run.dataset == data.id
