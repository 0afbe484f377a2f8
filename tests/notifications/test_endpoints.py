"""Endpoints: who may be told, how many there are, and that their secrets are nowhere to be read."""

import json
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.errors import EndpointConflict, FieldInvalid, NotFound, SetupError
from luthier.jobs.types import JobState
from luthier.notifications import store
from luthier.notifications.rows import unlock
from luthier.notifications.types import FOR_PEOPLE, JOB_STATES, KINDS, Channel, EndpointChange, NewEndpoint
from luthier.secret_box import SecretBox

from .conftest import ALICE, BOB


def test_a_webhook_comes_with_a_secret_that_is_shown_once(desk):
    made = desk.add(description="ours")
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert desk.notifications.list(ALICE) == [desk.notifications.get(ALICE, made.id)]
    assert "secret" not in desk.notifications.get(ALICE, made.id).model_dump()
    assert (made.kinds, made.enabled, made.description) == (("*",), True, "ours")


def test_people_are_told_what_concerns_them(desk):
    made = desk.add("ops@example.com", channel=Channel.EMAIL)
    assert (made.kinds, made.secret) == (FOR_PEOPLE, None)
    assert "job.starting" not in FOR_PEOPLE
    of_approvals = [kind for kind in FOR_PEOPLE if "approval" in kind]
    assert of_approvals == ["approval.asked"], "once is enough"


def test_secrets_are_in_no_dump_of_the_database_and_in_no_answer(desk):
    mine = "whsec_" + "A" * 40
    made = desk.add("https://hooks.example.com/in?key=hunter2", secret=mine)
    slack = desk.add("https://hooks.slack.com/services/T0/B0/hunter3", channel=Channel.SLACK)
    desk.publish()
    desk.work()
    desk.database.close()
    dump = "\n".join(sqlite3.connect(desk.database.path).iterdump())
    answers = json.dumps([each.model_dump(mode="json") for each in desk.notifications.list(ALICE)])
    for secret in (mine, mine.removeprefix("whsec_"), "hunter2", "hunter3"):
        assert secret not in dump
        assert secret not in answers
    assert desk.told("https://hooks.example.com/in?key=hunter2")
    assert (made.url, slack.url) == ("https://hooks.example.com/in?...", "https://hooks.slack.com/...")
    assert desk.box._path.stat().st_mode & 0o777 == 0o600


def test_a_secret_does_not_open_for_another_thing_or_with_another_key(desk, tmp_path):
    locked = desk.box.lock("s3cret", "wh_1")
    assert desk.box.unlock(locked, "wh_1") == "s3cret"
    other = SecretBox(tmp_path / "other.key")
    other.lock("x", "y")
    for box, of in ((desk.box, "wh_2"), (other, "wh_1")):
        with pytest.raises(SetupError, match="does not open"):
            box.unlock(locked, of)
    (tmp_path / "other.key").write_text("AAAA")
    with pytest.raises(SetupError, match="holds no key"):
        other.unlock(locked, "wh_1")


def test_an_endpoint_whose_key_is_lost_is_switched_off_and_delays_nobody(desk):
    lost = desk.add()
    desk.box._path.unlink()
    found = desk.add("https://hooks.example.com/b")
    desk.publish()
    desk.work()
    assert desk.notifications.get(ALICE, lost.id).disabled_reason == "Its secret cannot be read any more. Add it anew."
    assert [each.state for each in desk.deliveries(found)] == ["delivered"]


def test_w12_a_hundred_endpoints_are_enough_and_an_address_is_there_once(desk):
    for number in range(100):
        desk.add(f"https://hooks.example.com/{number}")
    with pytest.raises(EndpointConflict, match="at most 100"):
        desk.add("https://hooks.example.com/100")
    with pytest.raises(EndpointConflict, match="with this address"):
        desk.add("https://hooks.example.com/7")
    desk.add("https://hooks.example.com/7", actor=BOB)


@pytest.mark.parametrize("secret", ["", "short", "whsec_QUJD", "whsec_" + "A" * 31, "whsec_" + "A" * 100])
def test_w12_a_secret_that_cannot_sign_is_refused(desk, secret):
    with pytest.raises(FieldInvalid, match="cannot sign") as refused:
        desk.add(secret=secret)
    assert refused.value.param == "secret"
    assert secret == "" or secret not in str(refused.value)


def test_only_webhooks_have_a_secret(desk):
    with pytest.raises(FieldInvalid, match="Only webhooks are signed"):
        desk.add("https://hooks.slack.com/x", channel=Channel.SLACK, secret="whsec_" + "A" * 40)


def test_what_no_notifier_can_reach_is_refused(desk):
    with pytest.raises(FieldInvalid, match="Nothing can be sent there") as refused:
        desk.add("nowhere")
    assert refused.value.param == "url"


@pytest.mark.parametrize("kind", ["job.exploded", "jobs.*", "", ".*", "**"])
def test_an_event_that_does_not_exist_is_refused(kind):
    with pytest.raises(ValidationError, match="no event is called so"):
        NewEndpoint(url="https://a.example", kinds=(kind,))


def test_a_near_miss_is_named():
    with pytest.raises(ValidationError, match=r"did you mean job\.failed"):
        NewEndpoint(url="https://a.example", kinds=("job.fail",))


def test_it_can_be_changed_and_removed(desk):
    made = desk.add()
    assert desk.notifications.change(ALICE, made.id, EndpointChange(kinds=("job.failed",))).kinds == ("job.failed",)
    off = desk.notifications.change(ALICE, made.id, EndpointChange(enabled=False))
    assert (off.enabled, off.disabled_reason, off.kinds) == (False, "Switched off.", ("job.failed",))
    on = desk.notifications.change(ALICE, made.id, EndpointChange(enabled=True))
    assert (on.enabled, on.disabled_reason) == (True, None)
    desk.notifications.remove(ALICE, made.id)
    assert desk.notifications.list(ALICE) == []


def test_a_replaced_secret_signs_beside_the_new_one_for_a_day(desk):
    made = desk.add()
    new = desk.notifications.rotate(ALICE, made.id)
    with desk.database.read(ALICE.tenant_id) as session:
        sealed = unlock(desk.box, store.endpoint(session, made.id))
    day = timedelta(days=1)
    assert new.secret not in (None, made.secret)
    assert sealed.secrets(desk.clock) == (new.secret, made.secret)
    assert sealed.secrets(desk.clock + day) == (new.secret,)
    again = sealed.rotated("whsec_third", desk.clock + day)
    assert again.secrets(desk.clock) == ("whsec_third", new.secret)


def test_what_is_not_signed_has_no_secret_to_replace(desk):
    made = desk.add("https://hooks.slack.com/x", channel=Channel.SLACK)
    with pytest.raises(FieldInvalid, match="Only webhooks"):
        desk.notifications.rotate(ALICE, made.id)


@pytest.mark.parametrize("verb", ["get", "remove", "test", "rotate", "deliveries"])
def test_another_teams_endpoint_is_unknown(desk, verb):
    made = desk.add()
    with pytest.raises(NotFound):
        getattr(desk.notifications, verb)(BOB, made.id)
    with pytest.raises(NotFound):
        desk.notifications.change(BOB, made.id, EndpointChange(enabled=False))
    assert desk.notifications.list(BOB) == []
    assert desk.notifications.get(ALICE, made.id).enabled


def test_there_is_an_event_for_each_state_of_a_job_and_the_guide_names_them_all():
    page = (Path(__file__).parents[2] / "docs/how-to/get-notified.md").read_text("utf-8")
    assert sorted(JOB_STATES) == sorted(JobState)
    assert [kind for kind in KINDS if f"`{kind.removeprefix('job.')}`" not in page] == []
