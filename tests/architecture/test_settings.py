"""Settings: the unknown stops the start, and each one is documented."""

from pathlib import Path

import pytest

from luthier.errors import SetupError
from luthier.settings import Settings, child_environment, machine_environment

ROOT = Path(__file__).parents[2]


def test_an_unknown_variable_stops_the_start_and_names_the_nearest(monkeypatch):
    monkeypatch.setenv("LUTHIER_SLOT", "2")
    with pytest.raises(SetupError, match=r"LUTHIER_SLOT.*Did you mean LUTHIER_SLOTS\?"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "70000"), ("SLOTS", "two"), ("SLOTS", "0"), ("TICK_S", "nan"), ("HEARTBEAT_S", "10.1")]
)
def test_a_bad_value_names_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"LUTHIER_{name}", value)
    with pytest.raises(SetupError, match=f"LUTHIER_{name}"):
        Settings.load()


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("LUTHIER_PORT", "1234")
    assert Settings.load(port=4321, host=None).port == 4321


def test_children_inherit_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("LUTHIER_API_KEY", "lk_secret")
    assert "lk_secret" not in child_environment().values()


def test_children_inherit_no_secret_of_the_machine_but_the_hubs_where_they_fetch_bases(monkeypatch):
    secret = ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "MLFLOW_TRACKING_PASSWORD", "API_KEY")
    for name in (*secret, "HF_TOKEN", "TOKENIZERS_PARALLELISM", "KEYBOARD", "HF_HOME"):
        monkeypatch.setenv(name, "of-the-machine")
    kept = {"TOKENIZERS_PARALLELISM", "KEYBOARD", "HF_HOME"}
    assert {name for name, value in child_environment().items() if value == "of-the-machine"} == kept
    fetching = child_environment(Settings())
    assert {name for name, value in fetching.items() if value == "of-the-machine"} == {*kept, "HF_TOKEN"}
    assert set(secret) <= set(machine_environment()), "git has them, to be let in at a remote"


def test_the_seeds_name_of_a_setting_counts_where_ours_is_not_given_and_no_child_sees_it(monkeypatch):
    monkeypatch.setenv("SLACK_WEBHOOK", "https://hooks.slack.com/theirs")
    assert Settings.load().slack_webhook.get_secret_value() == "https://hooks.slack.com/theirs"
    assert "SLACK_WEBHOOK" not in child_environment()
    assert "theirs" not in repr(Settings.load())
    monkeypatch.setenv("LUTHIER_SLACK_WEBHOOK", "https://hooks.slack.com/ours")
    assert Settings.load().slack_webhook.get_secret_value() == "https://hooks.slack.com/ours"


def test_every_setting_is_documented():
    page = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    assert [name for name in Settings.model_fields if f"`LUTHIER_{name.upper()}`" not in page] == []
