"""Price files: what is taken digit by digit, and what stops the start (row E07)."""

import json
from datetime import UTC, datetime

import pytest
from huggingface_hub import JobHardware

from luthier.billing import price_book, store
from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.database import EVERY_TENANT, Database, Row
from luthier.errors import FieldInvalid, SetupError
from luthier.settings import Settings
from luthier.wiring import build

BOOK = json.dumps([entry.model_dump() for entry in price_book.shipped()])


def changed(**prices):
    """The shipped book as a file, with other prices; None leaves hardware out."""
    entries = [{**entry, "hourly_usd": prices.pop(entry["hardware"], entry["hourly_usd"])} for entry in json.loads(BOOK)]
    entries += [{"hardware": name, "hourly_usd": price} for name, price in prices.items()]
    return json.dumps([entry for entry in entries if entry["hourly_usd"] is not None]).encode()


@pytest.fixture
def billing(tmp_path):
    database = Database(tmp_path / "luthier.db")
    Row.metadata.create_all(database.engine)
    billing = Billing(database, lambda: datetime(2026, 11, 21, tzinfo=UTC), Machine(memory_bytes=8_000_000_000, cores=4))
    billing.first_start()
    yield billing
    database.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(A100="0"), "A100 costs nothing"),
        (changed(A100=0), "A100 costs nothing"),
        (changed(A100="-1"), r"entry \d+\.hourly_usd"),
        (changed(A100=-1.5), r"entry \d+\.hourly_usd"),
        (changed(A100=0.1 + 0.2), r"entry \d+\.hourly_usd"),
        (changed(A100=float("nan")), r"entry \d+\.hourly_usd"),
        (changed(A100="1e3"), r"entry \d+\.hourly_usd"),
        (changed(A100=True), r"entry \d+\.hourly_usd"),
        (changed(**{"../x": "1"}), r"entry \d+\.hardware"),
        (b'[{"hardware": "A100", "hourly_usd": "1"}, {"hardware": "A100", "hourly_usd": "2"}]', "two prices"),
        (b'[{"hardware": "A100"}]', r"entry 0\.hourly_usd"),
        (b'{"A100": 1}', "valid list"),
        (b'["A100"]', "entry 0"),
        (b"\xff", "no JSON"),
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_wrong_price_file_is_refused_with_the_variable(data, message):
    with pytest.raises(SetupError, match=f"LUTHIER_PRICES.*{message}"):
        price_book.parsed(data)


def test_numbers_are_taken_as_they_are_written():
    (entry,) = price_book.parsed(b'[{"hardware": "l4x1", "hourly_usd": 1.10, "assumed_flops": 3.0e13}]')
    assert (entry.hourly_usd, entry.assumed_flops) == ("1.10", 3.0e13)


def test_a_file_that_misses_hardware_is_refused_and_changes_nothing(billing):
    before = billing.prices()
    with pytest.raises(SetupError, match=r"LUTHIER_PRICES: no price for A100\."):
        billing.adopt(price_book.parsed(changed(A100=None, l4x1="0.80")))
    assert billing.prices() == before


def test_a_file_changes_adds_and_says_nothing_twice(billing):
    book = price_book.parsed(changed(A100="9.50", l4x1="0.80"))
    billing.adopt(book)
    assert (billing.price("A100").hourly_usd, billing.price("l4x1").hourly_usd) == ("9.50", "0.80")
    before = billing.prices()
    billing.adopt(book)
    assert billing.prices() == before


def test_a_file_says_more_than_the_price_and_what_it_leaves_out_stays(billing):
    book = [{"hardware": each["hardware"], "hourly_usd": each["hourly_usd"]} for each in json.loads(BOOK)]
    billing.adopt(price_book.parsed(json.dumps(book).encode()))
    assert billing.price("A100").memory_bytes == 80_000_000_000
    for each in book:
        if each["hardware"] == "A100":
            each |= {"memory_bytes": 40_000_000_000, "description": "The small one."}
    billing.adopt(price_book.parsed(json.dumps(book).encode()))
    found = billing.price("A100")
    assert (found.memory_bytes, found.description, found.hourly_usd) == (40_000_000_000, "The small one.", "10.00")
    assert billing.price("local-cpu").memory_bytes == 8_000_000_000


def test_every_flavour_of_hugging_face_jobs_has_a_price(billing):
    assert {flavour.value for flavour in JobHardware} <= {price.hardware for price in billing.prices()}


def test_prices_of_the_first_sketches_are_kept(billing):
    sketched = {"t4-small": "0.75", "t4-medium": "1.00", "a10g-small": "1.50", "a10g-large": "2.50", "a100-large": "5.00"}
    assert {name: billing.price(name).hourly_usd for name in (*sketched, "A100")} == sketched | {"A100": "10.00"}


def test_a_price_of_nothing_is_for_this_machine_however_it_is_set(billing):
    book = json.dumps([{"hardware": "A100", "hourly_usd": "0"}]).encode()
    with pytest.raises(SetupError, match="costs nothing") as of_the_file:
        price_book.parsed(book)
    with pytest.raises(FieldInvalid, match="A100 would cost nothing") as of_the_command:
        billing.set_price("A100", "0")
    assert of_the_file.value.hint == of_the_command.value.hint == "Only local-cpu, local-gpu may."
    assert billing.price("A100").hourly_usd == "10.00"
    assert billing.set_price("local-cpu", "0").hourly_usd == "0.00"


def test_processors_are_no_gpus(billing):
    upgrade, t4, here = (billing.price(name) for name in ("cpu-upgrade", "t4-small", "local-cpu"))
    assert (upgrade.kind, t4.kind, here.kind) == ("cpu", "gpu", "cpu")
    assert (upgrade.bf16, t4.bf16) == (False, True)
    assert billing.set_price("cpu-upgrade", "0.05").kind == "cpu"


def test_hardware_that_a_later_version_ships_gets_its_price_and_no_price_of_yours_changes(billing):
    billing.set_price("A100", "9.50")
    with billing._database.write(EVERY_TENANT) as session:
        session.delete(store.price(session, "h200x8"))
    billing.first_start()
    assert (billing.price("h200x8").hourly_usd, billing.price("A100").hourly_usd) == ("40.00", "9.50")


def test_the_setting_is_read_at_the_start(tmp_path):
    file = tmp_path / "prices.json"
    file.write_bytes(changed(A100="9.50"))
    platform = build(Settings(data=tmp_path / "data", prices=file))
    assert platform.billing.price("A100").hourly_usd == "9.50"
    platform.close()
    with pytest.raises(SetupError, match=r"LUTHIER_PRICES: .* cannot be read"):
        build(Settings(data=tmp_path / "data", prices=tmp_path / "none.json"))
