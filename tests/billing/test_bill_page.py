"""The bill as a page to print."""

from datetime import UTC, datetime

from luthier.billing.bill_page import Reader, as_html
from luthier.billing.reports import Booked, report
from luthier.billing.types import TokenUsage

ADA, GONE = "user_01kagz3vqdfyxtqn4w5b9zn8r2", "user_01kagz3vqdfyxtqn4w5b9zn8r3"
READER = Reader("Research & <Co>", datetime(2028, 3, 1, 9, 5, tzinfo=UTC), {ADA: "ada@example.org"})
BOOKED = [
    Booked("job_a", ADA, "local-cpu", 3_600_000, 36_000_000, is_refund=False),
    Booked("job_a", ADA, "local-cpu", 0, -1_500_000, is_refund=True),
    Booked("job_b", GONE, "A100", 1_500, 4_166, is_refund=False),
]


def test_it_names_team_days_and_people_and_sums_up():
    page = as_html(report("2028-02", BOOKED, {"job_a": "intents"}, ()), READER)
    assert "Bill of Research &amp; &lt;Co&gt;, 2028-02" in page
    assert "2028-02-01 to 2028-02-29 (UTC), in US dollars.</p>" in page
    assert "The month is not over" not in page
    assert "<td>ada@example.org</td><td>local-cpu</td>" in page
    assert f"<td>{GONE}</td>" in page  # whoever left the team is still billed by id
    assert '<td class="n">36.004166</td><td class="n">1.50</td></tr></tfoot>' in page
    assert "<h2>By user</h2>" in page
    assert "<h2>By hardware</h2>" in page
    assert "<h2>Answers of models</h2>" not in page


def test_tokens_are_a_table_of_their_own_and_a_running_month_says_so():
    used = TokenUsage(
        model="intents", kind="chat", user_id=ADA, requests=2, prompt_tokens=1200, completion_tokens=34, cost_usd="0.10"
    )
    page = as_html(report("2028-03", [], {}, (used,)), READER)
    assert '<td>intents</td><td>chat</td><td>ada@example.org</td><td class="n">1,234</td><td class="n">0.10</td>' in page
    assert "The month is not over." in page
    assert "<h2>By job</h2>" not in page
