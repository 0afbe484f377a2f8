"""From labelled images to answers: train by the seed's `/train`, promote, ask `/predict`, with real processes all the way."""

import asyncio
import collections
import io
import json
import time

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from . import bursts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

ROWS, HELD_OUT = 1200, 60
THOUSAND, PLACES = 1000, 32 + 256


def digits():
    """scikit-learn's digits, 28 x 28: each pixel three times each way, and a margin of two. Pixels from 0 to 255."""
    small, labels = load_digits(return_X_y=True)
    large = np.kron(small.reshape(-1, 8, 8), np.ones((3, 3))) * (255 / 16)
    images = np.pad(large, ((0, 0), (2, 2), (2, 2))).reshape(len(large), 784).astype(int)
    mixed = np.random.default_rng(7).permutation(len(images))  # the last of them were written by other hands
    return images[mixed], labels[mixed]


def csv(path, images, labels):
    lines = ["label," + ",".join(f"pixel{number}" for number in range(784))]
    lines += [",".join(map(str, (label, *image))) for image, label in zip(images.tolist(), labels.tolist(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def drawn(image):
    file = io.BytesIO()
    Image.fromarray(image.reshape(28, 28).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def engine_of(house):
    (engine,) = house.processes("luthier.modeling.server")
    return engine


async def a_thousand_at_once(house, engine, key):
    """Row P09. The engine stands still until all are refused that find no place; returns how many found one."""
    images = np.random.default_rng(1).random((THOUSAND, 784)).round(2).tolist()
    asked = [bursts.request("POST", "/predict", key, json.dumps({"image": image}).encode()) for image in images]
    look, address = bursts.request("GET", "/health", key), bursts.address_of(house.url())
    server = psutil.Process(house.server.pid)
    before, most, healthy, resumed = server.memory_info().rss, 0, [], []

    def answered(count):
        if count == THOUSAND - PLACES:
            engine.resume()
            resumed.append(time.monotonic())

    engine.suspend()
    try:
        async with asyncio.timeout(60):
            burst = asyncio.create_task(bursts.burst(house.url(), asked, answered))
            while not burst.done():
                healthy.append(await bursts.ask(address, look))
                most = max(most, server.memory_info().rss)
                await asyncio.sleep(0.05)
            found = await burst
    finally:
        engine.resume()
    refused = [answer for answer in found if answer.status != 200]
    assert collections.Counter(answer.status for answer in found) == {200: PLACES, 429: THOUSAND - PLACES}
    assert {(answer.headers["retry-after"], json.loads(answer.body)["error"]["code"]) for answer in refused} == {
        ("1", "too_many_requests")
    }
    assert max(answer.at for answer in refused) <= resumed[0]
    assert max(answer.at for answer in found) - resumed[0] < 10, "whoever found a place is answered soon after"
    assert {answer.status for answer in healthy} == {200}
    assert max(answer.seconds for answer in healthy) < 5
    assert most - before < 200 * 2**20
    return PLACES


def test_digits_are_learned_promoted_and_told_apart(house, tmp_path):
    client = house.start()
    images, labels = digits()
    client.datasets.upload(csv(tmp_path / "digits.csv", images[:ROWS], labels[:ROWS]), name="digits")
    client.datasets.upload(csv(tmp_path / "digits-test.csv", images[ROWS:1400], labels[ROWS:1400]), name="digits-test")
    key = (house.data / "admin.key").read_text().strip()
    with httpx.Client(base_url=house.url(), headers={"X-API-Key": key}, timeout=120, trust_env=False) as http:
        asked = [{"image": (image / 255).tolist()} for image in images[-HELD_OUT:]]
        refused = http.post("/predict", json=asked[0])
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_model")
        body = {"learning_rate": 0.001, "epochs": 6, "batch_size": 32, "hidden_size": 32}
        job_id = http.post("/train", json=body).json()["job_id"]
        house.wait_until(lambda: client.jobs.get(job_id).state == "succeeded", "the digits were learned", 240)
        client.models.transition("MNISTClassifier@1", "Production")
        found = [http.post("/predict", json=each).json() for each in asked]
        right = [answer["prediction"] == label for answer, label in zip(found, labels[-HELD_OUT:], strict=True)]
        assert np.mean(right) > 0.85
        first = found[0]
        assert set(first) == {
            *("prediction", "confidence", "probabilities", "classes"),
            *("model_name", "model_version", "model_stage"),
        }
        png = {"content-type": "image/png"}
        seen = [http.post("/api/predict/picture", content=drawn(image), headers=png).json() for image in images[-4:]]
        assert seen == found[-4:], "a picture is what its numbers are"
        assert (first["model_name"], first["model_version"], first["model_stage"]) == ("MNISTClassifier", "1", "Production")
        assert first["confidence"] == max(first["probabilities"])
        assert sum(first["probabilities"]) == pytest.approx(1)
        engine = engine_of(house)
        engine.kill()
        psutil.wait_procs([engine], timeout=20)
        assert [http.post("/predict", json=each).json() for each in asked[:3]] == found[:3], "answers outlive the engine"
        other = [*asked[0]["image"][1:], 0.5]
        assert http.post("/predict", json={"image": other}).status_code == 200, "a new engine is started"
        answered = asyncio.run(a_thousand_at_once(house, engine_of(house), key))
    (usage,) = client.billing.usage().tokens
    assert (usage["kind"], usage["requests"], usage["prompt_tokens"]) == ("predict", HELD_OUT + 8 + answered, 0)
