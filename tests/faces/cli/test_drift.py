"""`tune drift`: what is watched, what has drifted, and the run that would train it again."""

import json

from luthier.jobs.spec import RunSpec

from ..sdk.conftest import as_json

RUN = {"method": "classifier", "base_model": "mnist-cnn", "dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2", "name": "digits"}
BRIGHTNESS = {
    "name": "brightness",
    "kind": "feature",
    "test": "ks",
    "by": None,
    "psi": 1.5,
    "statistic": 0.6,
    "p": 1e-9,
    "drifted": True,
    "bins": [0.2, 0.4],
    "reference": [10, 10, 10],
    "live": [0, 10, 30],
}


def version(state="drifted", **window):
    last = {"number": 2, "samples": 40, "drifted": state == "drifted", "measures": [BRIGHTNESS], "retrain": None, **window}
    return {
        "model_id": "m",
        "name": "digits",
        "version": "3",
        "state": state,
        "share": 0.1,
        "waiting": 7,
        "why": None,
        "windows": [last],
    }


def told(fake, *versions):
    fake.say("GET /api/drift/status", as_json({"thresholds": {}, "data": list(versions)}))


def test_a_model_is_watched_and_then_its_standing_is_told(world, terminal):
    world.model(name="digits")
    done = terminal("tune", "drift", "digits", "--share", "0.25")
    assert done.code == 0
    assert "25.0% of the requests of digits are sampled" in done.err
    assert terminal("tune", "drift", "nobody", "--share", "1").code != 0
    done = terminal("tune", "drift")
    assert (done.code, done.out) == (0, "")
    assert "Nothing is watched yet" in done.err


def test_drift_is_an_exit_status_with_names_and_both_histograms(fake, terminal):
    told(fake, version(retrain={"run": RUN, "cost_usd": "0.25", "seconds": 60, "why_not": None}))
    done = terminal("tune", "drift", "digits")
    assert done.code == 1
    assert "digits@3  drifted  10%" in done.out
    assert "███ |  ▃█" in done.out
    assert "$0.25" in done.err
    assert "tune drift digits --run" in done.err
    assert fake.asked[-1].query == {"name": "digits"}
    assert terminal("tune", "drift", "--json").json["data"][0]["windows"][0]["measures"] == [BRIGHTNESS]


def test_what_is_steady_is_no_failure(fake, terminal):
    told(fake, version("steady"), {**version("no_reference"), "why": "The dataset is gone.", "windows": []})
    done = terminal("tune", "drift")
    assert done.code == 0
    assert "brightness" not in done.out.splitlines()[-1]
    assert "The dataset is gone." in done.err


def test_the_proposed_run_is_a_configuration(fake, terminal):
    told(fake, version(retrain={"run": RUN, "cost_usd": "0.25", "seconds": 60, "why_not": None}))
    done = terminal("tune", "drift", "digits", "--run")
    assert done.code == 0
    assert RunSpec(**json.loads(done.out)).dataset == RUN["dataset"]
    told(fake, version(retrain={"run": None, "cost_usd": None, "seconds": None, "why_not": "The job was deleted."}))
    done = terminal("tune", "drift", "digits", "--run")
    assert (done.code, done.out) == (2, "")
    assert "The job was deleted." in done.err
    told(fake, version("steady"))
    assert "It has not drifted." in terminal("tune", "drift", "digits", "--run").err


def test_a_share_needs_a_name(terminal):
    assert terminal("tune", "drift", "--share", "0.1").code == 2
