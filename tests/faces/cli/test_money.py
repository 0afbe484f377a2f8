"""The verbs about money that admins use."""

import pytest

from luthier.faces.cli.reports import failure_text
from luthier.faces.sdk.answers import Job


def test_a_budget_is_set_shown_and_ended(world, terminal):
    assert "No budget" in terminal("tune", "budget").out
    assert "$100.00" in terminal("tune", "budget", "set", "100").out
    assert terminal("tune", "budget", "--json").json["data"][0]["limit_usd"] == "100.00"
    refused = terminal("tune", "budget", "set", "1e3")
    assert (refused.code, 'such as "12.50"' in refused.err) == (1, True)
    assert 'such as "12.50"' in terminal("tune", "budget", "set", "-5").err
    assert "No budget" in terminal("tune", "budget", "set", "none").out


def test_a_price_is_set_and_a_month_is_reported(world, terminal, tmp_path):
    assert "$1.50" in terminal("tune", "pricing", "set", "local-gpu", "1.50").out
    month = terminal("tune", "billing", "--json").json["period"]
    assert "Total $0.00" in terminal("tune", "billing", "--report", month).out
    file = tmp_path / "bill.csv"
    terminal("tune", "billing", "--report", month, "--csv", str(file))
    assert file.read_text("utf-8").startswith("job_id,name")
    page = tmp_path / "bill.html"
    terminal("tune", "billing", "--report", month, "--html", str(page))
    assert f"{month}-01 to {month}-" in page.read_text("utf-8")
    refused = terminal("tune", "billing", "--report", "2026-13")
    assert (refused.code, "a month such as 2026-11" in refused.err) == (1, True)
    assert terminal("tune", "billing", "--csv", str(file)).code == 2


def test_a_job_that_does_not_wait_cannot_be_approved(world, terminal):
    for verb in ("approve", "reject"):
        assert terminal("tune", verb, "job_01kagz3vqdfyxtqn4w5b9zn8r2").code != 0


@pytest.mark.parametrize(("state", "word"), [("stopped", "Stopped"), ("failed", "Failed")])
def test_a_job_that_a_budget_stopped_is_not_said_to_have_failed(state, word):
    job = Job({"state": state, "error": {"code": "budget", "message": "A budget is used up.", "hint": None}})
    assert failure_text(job) == f"{word} (budget): A budget is used up."


def test_the_book_is_written_as_the_file_that_a_start_reads(world, terminal, tmp_path):
    from luthier.billing import price_book

    file = tmp_path / "prices.json"
    assert str(file) in terminal("tune", "pricing", "--book", str(file)).err
    book = price_book.read(file)
    assert {entry.hardware: entry.hourly_usd for entry in book} == {
        entry.hardware: entry.hourly_usd for entry in price_book.shipped()
    }
