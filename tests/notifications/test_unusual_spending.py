"""A day of unusual spending, from a supervisor's heartbeat to the channel of those who run the server."""

from datetime import UTC, datetime, timedelta

from luthier import ids
from luthier.billing.types import Hold, Segment
from luthier.notifications.types import Channel
from luthier.seams import Reply
from luthier.server.first import first_start
from luthier.settings import Settings
from luthier.wiring import build, courier


class Listener:
    """A channel that keeps what it was told."""

    def __init__(self):
        self.told = []

    def check(self, address):
        """Everything may be sent."""

    def send(self, news, address, secrets):
        self.told.append(news)
        return Reply(200)


class House:
    """A platform that hears of jobs through Slack, at a time that the test sets."""

    def __init__(self, data):
        self.now, self.slack = datetime(2026, 11, 2, 12, tzinfo=UTC), Listener()
        settings = Settings(data=data, slack_webhook="https://hooks.slack.com/services/x")
        self.platform = build(settings, notifiers=dict.fromkeys(Channel, self.slack), now=lambda: self.now)
        first_start(self.platform)
        self.admin = self.platform.accounts.authenticate((data / "admin.key").read_text("utf-8").strip())

    def spend(self, minutes):
        """A job on an A100, which costs ten dollars an hour."""
        job_id, billing = ids.new(ids.JOB), self.platform.billing
        with self.platform.database.write(self.admin.tenant_id) as session:
            billing.hold(session, self.admin, Hold(job_id, "A100", 0))
        with self.platform.database.beat() as session:
            billing.beat(session, Segment(self.admin.tenant_id, job_id, 1, 1, "A100", self.now, minutes * 60_000))


def test_a_day_that_costs_much_more_than_those_before_is_told_once(tmp_path):
    house = House(tmp_path)
    messenger = courier(house.platform)
    for minutes in (6, 7, 6, 5, 6, 7, 6, 6):
        house.spend(minutes)
        house.now += timedelta(days=1)
        messenger.round()
    assert house.slack.told == [], "days like the others"
    house.spend(540)
    house.spend(60)
    while messenger.round():
        pass
    (news,) = house.slack.told
    assert (news.kind, news.data) == (
        "spending.unusual",
        {"day": "2026-11-10", "spent_usd": "90.00", "usual_usd": "1.00"},
    )
    house.platform.close()
