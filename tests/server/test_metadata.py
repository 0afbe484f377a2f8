"""The files of `users/<tenant_id>/metadata/`: what is in them, when they are written, and that nothing reads them."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from luthier import ids
from luthier.billing.types import Hold, Price, Refund, Segment, TokenUsage
from luthier.datasets.store import DatasetRow
from luthier.datasets.types import Upload
from luthier.server import metadata
from luthier.server.first import first_start
from luthier.server.metadata_keeper import MetadataKeeper, describing
from luthier.settings import Settings
from luthier.wiring import build

NAMES = {"user_info.json", "jobs.json", "datasets.json", "models.json", "billing.json", "gpu_pricing.json"}
NOW = datetime(2026, 11, 21, tzinfo=UTC)


class House:
    """A platform at a time that stands still, and what lies in the folder of its first team."""

    def __init__(self, data):
        self.now = NOW
        self.platform = build(Settings(data=data), now=lambda: self.now)
        first_start(self.platform)
        self.admin = self.platform.accounts.authenticate((data / "admin.key").read_text("utf-8").strip())
        self.folder = data / "users" / self.admin.tenant_id / "metadata"
        self.keeper = MetadataKeeper(self.platform)

    def read(self, name):
        return json.loads((self.folder / name).read_text("utf-8"))

    def bill(self, hardware, seconds):
        """A job that was charged that much time."""
        job_id, billing = ids.new(ids.JOB), self.platform.billing
        with self.platform.database.write(self.admin.tenant_id) as session:
            billing.hold(session, self.admin, Hold(job_id, hardware, 20_000_000))
            billing.beat(session, Segment(self.admin.tenant_id, job_id, 1, 1, hardware, self.now, seconds * 1000))
            billing.settle(session, self.admin.tenant_id, job_id)
            self.platform.notifications.publish(session, self.admin.tenant_id, "job.succeeded", {"job_id": job_id})
        return job_id


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.platform.close()


def test_the_first_round_writes_the_files_of_the_seed(house):
    assert house.keeper.round() == 1
    assert {path.name for path in house.folder.iterdir()} == NAMES
    info = house.read("user_info.json")
    assert {"email", "created_at", "status", "last_login"} <= info.keys()
    assert (info["status"], info["members"][0]["role"]) == ("active", "admin")
    assert info["created_at"] == info["members"][0]["created_at"] == NOW.isoformat().replace("+00:00", "Z")
    assert house.read("gpu_pricing.json")["A100"] == {"cost_per_hour": 10.0}
    assert house.read("jobs.json") == {"jobs": []}


def test_a_settled_job_and_its_refund_are_in_the_bill(house):
    job_id = house.bill("A100", 1800)
    house.keeper.round()
    a100 = {"seconds": 1800.0, "cost_per_hour": 10.0, "total_cost": 5.0}
    job = {"job_id": job_id, "gpu_type": "A100", "duration_seconds": 1800.0, "cost": 5.0}
    current = {"start_date": "2026-11-01", "total_cost": 5.0, "usage_breakdown": {"A100": a100}, "jobs": [job]}
    assert house.read("billing.json") == {"current_period": current}

    house.platform.billing.refund(Refund(job_id, 1_250_000, "The GPU was broken.", "key"))
    house.keeper.rebuild()
    assert house.read("billing.json")["current_period"]["jobs"][0]["cost"] == 3.75
    assert house.read("billing.json")["current_period"]["total_cost"] == 3.75


def test_what_models_answered_is_in_the_bill_as_a_part_of_its_total(house):
    house.bill("A100", 1800)
    tokens = [
        TokenUsage(model=model, kind="chat", user_id="user_1", requests=1, prompt_tokens=9, completion_tokens=1, cost_usd=cost)
        for model, cost in (("a", "0.75"), ("b", "0.50"))
    ]
    report = house.platform.billing.report(house.admin, "2026-11", lambda _: {})
    report = report.model_copy(update={"tokens": tuple(tokens), "total_usd": "6.25"})
    current = metadata.billing(report, house.platform.billing.prices())["current_period"]
    assert current["usage_breakdown"]["served_tokens"] == {"total_cost": 1.25}
    assert sum(part["total_cost"] for part in current["usage_breakdown"].values()) == current["total_cost"] == 6.25


def test_lists_have_all_that_there_is_however_much(house):
    lines = b'{"prompt": "1 + 1 =", "completion": " 2"}\n' * 12
    first = house.platform.datasets.upload(house.admin, Upload([lines], name="sums")).id
    with house.platform.database.write(house.admin.tenant_id) as session:
        row = session.get(DatasetRow, first)
        values = {column.name: getattr(row, column.name) for column in DatasetRow.__table__.columns}
        copies = [{**values, "id": ids.new(ids.DATASET), "version": number} for number in range(2, 1203)]
        session.execute(insert(DatasetRow), copies)
    house.keeper.rebuild()
    found = [(each["dataset_id"], each["version"]) for each in house.read("datasets.json")["datasets"]]
    assert found == sorted(((each["id"], each["version"]) for each in (values, *copies)), reverse=True)
    assert house.read("models.json") == {"models": []}


def test_a_round_looks_only_at_teams_in_which_something_happened(house):
    house.platform.accounts.users.add("ada@example.org", None)
    house.now = datetime.now(UTC) + timedelta(minutes=5)  # ids carry the real time: nothing is as young as that
    keeper = MetadataKeeper(house.platform)
    assert (keeper.round(), keeper.round()) == (2, 0)
    house.now = datetime.now(UTC)
    keeper = MetadataKeeper(house.platform)
    keeper.round()
    house.bill("local-cpu", 5)
    assert keeper.round() == 1


def test_a_new_price_and_a_new_month_concern_every_team(house):
    house.platform.accounts.users.add("ada@example.org", None)
    house.keeper.round()
    house.platform.billing.set_price("A100", "12.50")
    assert house.keeper.round() == 2
    assert house.read("gpu_pricing.json")["A100"] == {"cost_per_hour": 12.5}
    house.now = NOW + timedelta(days=20)
    assert house.keeper.round() == 2
    assert house.read("billing.json")["current_period"]["start_date"] == "2026-12-01"


def test_what_somebody_wrote_into_the_files_changes_nothing(house):
    house.keeper.round()
    for name in NAMES:
        (house.folder / name).write_text("{broken", "utf-8")
    job_id = house.bill("A100", 3600)
    assert house.platform.billing.job_cost(house.admin, job_id).cost_usd == "10.00"
    MetadataKeeper(house.platform).rebuild()
    assert house.read("billing.json")["current_period"]["total_cost"] == 10.0


def test_the_thread_writes_them_while_the_platform_is_served(house):
    with describing(house.platform, pause_s=0.001):
        deadline = datetime.now(UTC) + timedelta(seconds=20)
        while not (house.folder / "gpu_pricing.json").exists() and datetime.now(UTC) < deadline:
            pass
    assert {path.name for path in house.folder.iterdir()} == NAMES


def test_a_team_that_is_suspended_or_empty_says_so(house):
    report = house.platform.billing.report(house.admin, "2026-11", lambda _: {})
    empty = metadata.Team((), {}, suspended=False, report=report, prices=(), jobs=(), datasets=(), models=())
    assert metadata.user_info(empty) == {"status": "empty", "members": []}
    assert metadata.user_info(dataclasses.replace(empty, suspended=True))["status"] == "suspended"


def test_prices_are_numbers_by_hardware():
    price = Price(hardware="A100", hourly_usd="10.00", assumed_flops=1e14, valid_from=NOW)
    assert metadata.gpu_pricing([price]) == {"A100": {"cost_per_hour": 10.0}}
