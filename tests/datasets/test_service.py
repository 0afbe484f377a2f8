import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from luthier.database import EVERY_TENANT
from luthier.datasets.formats import Example, read_rows
from luthier.datasets.types import Upload
from luthier.errors import (
    CursorInvalid,
    DatasetNotReady,
    DatasetRejected,
    FieldInvalid,
    Gone,
    InUse,
    Invalid,
    ModelNotAllowed,
    NotFound,
    TooLarge,
)

from .conftest import an_upload, chat, jsonl, rows


def test_an_upload_answers_with_its_report_and_can_be_trained_on(datasets, world, alice):
    dataset = datasets.upload(alice, an_upload(name="support"))
    assert (dataset.name, dataset.version, dataset.state, dataset.rows) == ("support", 1, "ready", 12)
    assert dataset.report.tokens == dataset.tokens > dataset.report.loss_tokens > 0
    assert dataset.report.tokenizer == "luthier/tiny"
    assert dataset.report.roles == {"user": 12, "assistant": 12}
    assert datasets.ready(alice, dataset.id) == datasets.get(alice, dataset.id) == dataset
    source = datasets.source(dataset)
    stored = Path(source.url.removeprefix("file://")).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == source.sha256
    with datasets.open(alice, dataset.id) as raw:
        assert hashlib.sha256(raw.read()).hexdigest() == dataset.sha256
    assert sorted(name.split(f"{dataset.id}/")[1] for name in world.files()) == [
        "metadata.json",
        "processed/distributions.json",
        "processed/hashes",
        "processed/index",
        "processed/rows.jsonl",
        "raw/upload",
    ]


def test_what_is_stored_for_training_reads_back_as_the_same_examples(datasets, world, alice):
    alpaca = [{"instruction": "Add.", "input": f"{n} + 1", "output": str(n + 1)} for n in range(12)]
    dataset = datasets.upload(alice, an_upload(json.dumps(alpaca).encode(), file_name="sums.json"))
    assert dataset.report.counts == {"format": 1}
    with world.storage.open(f"users/{alice.tenant_id}/data/{dataset.id}/processed/rows.jsonl") as stream:
        examples = list(read_rows(stream, Example))
    assert examples[3].messages == ({"role": "user", "content": "Add.\n3 + 1"}, {"role": "assistant", "content": "4"})
    assert len(examples) == 12


BAD = {"messages": [{"role": "user", "content": "Hello?"}]}


def test_a_rejected_file_says_why_and_is_not_listed(datasets, alice):
    with pytest.raises(DatasetRejected, match="Line 13: No assistant message") as refusal:
        datasets.upload(alice, an_upload(jsonl(*rows(), BAD)))
    assert refusal.value.error_code == "no_target"
    assert refusal.value.details["rows"] == 13
    assert refusal.value.details["findings"][0]["line"] == 13
    assert datasets.list(alice).data == []


def test_a_small_rejected_file_can_be_fixed_for_a_day(datasets, world, alice, bob):
    with pytest.raises(DatasetRejected, match="Line 13") as refusal:
        datasets.upload(alice, an_upload(jsonl(*rows(), BAD), name="orders"))
    kept = refusal.value.details["dataset_id"]
    assert refusal.value.hint.endswith(f"dataset fix {kept}")
    assert (datasets.get(alice, kept).state, datasets.get(alice, kept).version) == ("rejected", 1)
    with pytest.raises(NotFound):
        datasets.fix(bob, kept)
    fixed = datasets.fix(alice, kept)
    assert (fixed.dataset.name, fixed.dataset.version, fixed.dataset.rows, fixed.counts) == ("orders", 2, 12, {"no_target": 1})
    world.ticks += 24 * 3600
    with pytest.raises(Gone):
        datasets.fix(alice, kept)
    assert not [name for name in world.files() if kept in name]


def test_of_a_file_without_one_good_row_nothing_is_kept(datasets, world, alice):
    with pytest.raises(DatasetRejected) as refusal:
        datasets.upload(alice, an_upload(jsonl(BAD, BAD)))
    assert "dataset_id" not in refusal.value.details
    assert world.files() == []


def test_a_client_that_hangs_up_leaves_nothing(datasets, world, alice):
    def cut_off():
        yield jsonl(*rows())
        raise ConnectionError

    with pytest.raises(ConnectionError):
        datasets.upload(alice, Upload(chunks=cut_off()))
    assert datasets.list(alice).data == []
    assert world.files() == []
    assert list((world.folder / "data" / "scratch").iterdir()) == []


def test_too_many_bytes_are_refused_while_they_arrive(world, alice):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield b" " * 1000

    with pytest.raises(TooLarge, match="larger than 10,000 bytes"):
        world.start(max_upload_bytes=10_000).upload(alice, Upload(chunks=endless()))
    assert len(taken) == 11
    assert world.files() == []


def test_versions_of_a_name_are_numbered_for_each_tenant(datasets, alice, bob):
    assert [datasets.upload(alice, an_upload(name="a")).version for _ in range(2)] == [1, 2]
    assert datasets.upload(alice, an_upload(name="b")).version == 1
    assert datasets.upload(bob, an_upload(name="a")).version == 1
    datasets.delete(alice, datasets.list(alice).data[1].id)
    assert datasets.upload(alice, an_upload(name="a")).version == 3


def test_another_tenants_dataset_is_as_unknown_as_one_that_never_was(datasets, world, alice, bob):
    dataset = datasets.upload(alice, an_upload())
    for wrong in (dataset.id, dataset.id[:-1] + ("0" if dataset.id[-1] != "0" else "1"), "../x", "", "ds_" + "0" * 26):
        words = set()
        for verb in (datasets.get, datasets.ready, datasets.delete, datasets.open):
            with pytest.raises(NotFound) as refusal:
                verb(bob, wrong)
            words.add(str(refusal.value))
        with pytest.raises(NotFound), world.database.write(bob.tenant_id) as session:
            datasets.use(session, bob, wrong, "job_1")
        with pytest.raises(NotFound), world.database.write(EVERY_TENANT) as session:
            datasets.use(session, bob, wrong, "job_1")
        assert len(words) == 1
    assert datasets.list(bob).data == []
    with pytest.raises(CursorInvalid):
        datasets.list(bob, after=dataset.id)
    assert datasets.get(alice, dataset.id) == dataset


def test_lists_are_paged_newest_first(datasets, alice):
    made = [datasets.upload(alice, an_upload()).id for _ in range(3)]
    first = datasets.list(alice, limit=2)
    second = datasets.list(alice, limit=2, after=first.next_cursor)
    assert [dataset.id for dataset in [*first.data, *second.data]] == made[::-1]
    assert second.next_cursor is None


def test_a_dataset_in_use_stays_until_it_is_released(datasets, world, alice):
    dataset = datasets.upload(alice, an_upload())
    with world.database.write(alice.tenant_id) as session:
        datasets.use(session, alice, dataset.id, "job_1")
        datasets.use(session, alice, dataset.id, "job_1")
    with pytest.raises(InUse, match="in use by job_1"):
        datasets.delete(alice, dataset.id)
    with world.database.write(EVERY_TENANT) as session:
        datasets.release(session, "job_1")
    datasets.delete(alice, dataset.id)
    for verb in (datasets.get, datasets.ready, datasets.delete, datasets.open):
        with pytest.raises(Gone):
            verb(alice, dataset.id)
    assert world.files() == []
    assert datasets.list(alice).data == []


def test_a_large_file_is_taken_in_first_and_checked_in_the_background(world, alice):
    datasets = world.start(inline_upload_bytes=10)
    good = datasets.upload(alice, an_upload(name="good"))
    bad = datasets.upload(alice, an_upload(jsonl({"messages": None}), name="bad"))
    assert good.state == bad.state == "validating"
    datasets.settle(60)
    assert datasets.ready(alice, good.id).report.rows == 12
    rejected = datasets.get(alice, bad.id)
    assert (rejected.state, rejected.report.findings[0].code) == ("rejected", "bad_type")
    with pytest.raises(DatasetNotReady, match="rejected"):
        datasets.ready(alice, bad.id)
    assert [dataset.id for dataset in datasets.list(alice).data] == [good.id]
    assert [name for name in world.files() if bad.id in name] == [
        f"users/team_a/data/{bad.id}/{name}" for name in ("metadata.json", "raw/upload", "raw/wishes.json")
    ]
    datasets.close()


def test_a_rejected_large_file_can_be_fixed_for_a_day(world, alice):
    datasets = world.start(inline_upload_bytes=10)
    bad = datasets.upload(alice, an_upload(jsonl(*rows(), rows()[3]) + b"null\n", name="support"))
    late = datasets.upload(alice, an_upload(b"null\n" * 5))
    datasets.settle(60)
    fixed = datasets.fix(alice, bad.id)
    datasets.settle(60)
    assert (fixed.dataset.name, fixed.dataset.version, datasets.ready(alice, fixed.dataset.id).rows) == ("support", 2, 12)
    world.ticks += 25 * 3600
    datasets.recover()
    assert not [name for name in world.files() if late.id in name]
    with pytest.raises(Gone):
        datasets.fix(alice, late.id)
    assert datasets.get(alice, late.id).report.counts["row_not_object"] == 5
    datasets.close()


def test_a_restart_goes_on_with_what_was_being_checked_or_deleted(world, alice):
    crashed = world.start(inline_upload_bytes=10)
    crashed.close()
    dataset = crashed.upload(alice, an_upload())
    with pytest.raises(DatasetNotReady, match="being validated"):
        crashed.ready(alice, dataset.id)
    litter = world.folder / "data" / "scratch" / "ds_left"
    litter.mkdir(parents=True)
    (litter / "lock").touch()
    started = world.start(inline_upload_bytes=10)
    started.recover()
    started.settle(60)
    assert started.ready(alice, dataset.id).rows == 12
    assert not litter.exists()
    started.close()


def test_a_dataset_that_is_deleted_while_it_is_checked_stays_deleted(world, alice):
    datasets = world.start(inline_upload_bytes=10)
    dataset = datasets.upload(alice, an_upload())
    datasets.delete(alice, dataset.id)
    datasets.settle(60)
    with pytest.raises(Gone):
        datasets.get(alice, dataset.id)
    assert world.files() == []
    datasets.close()


def test_a_wrong_checksum_is_refused_and_a_right_one_is_not(datasets, world, alice):
    data = jsonl(*rows())
    with pytest.raises(Invalid) as refusal:
        datasets.upload(alice, an_upload(data, sha256="0" * 64))
    assert refusal.value.error_code == "checksum_mismatch"
    assert world.files() == []
    with pytest.raises(FieldInvalid, match="64 hexadecimal digits"):
        datasets.upload(alice, an_upload(data, sha256="abc"))
    assert datasets.upload(alice, an_upload(data, sha256=hashlib.sha256(data).hexdigest().upper())).state == "ready"


@pytest.mark.parametrize("name", ["", " x", "a\nb", "a\x00b", "a\x1b[31m", "x" * 129, "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(datasets, alice, name):
    with pytest.raises(FieldInvalid, match="name"):
        datasets.upload(alice, an_upload(name=name))


def test_only_an_allowed_base_measures(datasets, alice):
    with pytest.raises(ModelNotAllowed):
        datasets.upload(alice, an_upload(base_model="../tiny"))


def test_ten_uploads_of_one_name_at_once_get_ten_numbers(datasets, alice):
    def once(number: int) -> int:
        return datasets.upload(alice, an_upload(jsonl(chat(f"{number}")), name="same")).version

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(once, range(10))) == list(range(1, 11))


def test_rows_that_another_dataset_holds_are_told_with_their_lines(datasets, alice, bob):
    held_out = datasets.upload(alice, an_upload(jsonl(*rows(5), chat("Other?")), name="val"))
    dataset = datasets.upload(alice, an_upload(jsonl(chat("Question 2?", "Better."), *rows()[3:]), against=(held_out.id,)))
    assert [each.model_dump() for each in dataset.report.against] == [{"name": "val@1", "rows": 2, "prompts": 1}]
    assert dataset.report.counts["train_val_overlap"] == 3
    told = {each.line: each.message for each in dataset.report.findings if each.code == "train_val_overlap"}
    assert told == {
        1: "Line 3 of val@1 asks the same.",
        2: "The row is also line 4 of val@1.",
        3: "The row is also line 5 of val@1.",
    }
    with pytest.raises(NotFound):
        datasets.upload(bob, an_upload(against=(held_out.id,)))


def test_bad_rows_are_dropped_where_that_is_asked_for(datasets, world, alice):
    bad = jsonl(*rows(), {"messages": None}) + b"null\n" + jsonl(chat("Last?"))
    dataset = datasets.upload(alice, an_upload(bad, drop_bad_rows=True))
    assert (dataset.state, dataset.rows, dataset.report.rows, dataset.report.dropped_rows) == ("ready", 13, 15, 2)
    assert dataset.report.counts == {"bad_type": 1, "row_not_object": 1}
    assert (dataset.report.errors, {each.severity for each in dataset.report.findings}) == (0, {"warning"})
    dropped = world.storage.read(f"users/team_a/data/{dataset.id}/processed/dropped.jsonl")
    assert [json.loads(line)["line"] for line in dropped.splitlines()] == [13, 14]
    with pytest.raises(DatasetRejected):
        datasets.upload(alice, an_upload(b"null\n", drop_bad_rows=True))


def test_a_large_file_is_checked_as_its_owner_wished(world, alice):
    datasets = world.start(inline_upload_bytes=10)
    held_out = datasets.upload(alice, an_upload(name="val"))
    gone = datasets.upload(alice, an_upload(name="gone"))
    datasets.settle(60)
    large = datasets.upload(alice, an_upload(jsonl(*rows()) + b"null\n", against=(held_out.id, gone.id), drop_bad_rows=True))
    datasets.delete(alice, gone.id)
    datasets.settle(60)
    report = datasets.ready(alice, large.id).report
    assert report.dropped_rows == 1
    assert ("val@1", 12) in [(each.name, each.rows) for each in report.against]
    datasets.close()


def test_a_fixed_version_leaves_bad_and_repeated_rows_out_and_lists_them(datasets, alice):
    same = {"prompt": "1 + 1 =", "chosen": "2", "rejected": "2"}
    pairs = [{"prompt": f"{n} + 1 =", "chosen": f"{n + 1}", "rejected": "0"} for n in range(12)]
    dataset = datasets.upload(alice, an_upload(jsonl(*pairs, same, pairs[4], pairs[4]), name="sums"))
    fixed = datasets.fix(alice, dataset.id)
    assert (fixed.dataset.name, fixed.dataset.version, fixed.dataset.rows, fixed.source) == ("sums", 2, 12, dataset.id)
    assert (fixed.dropped_rows, fixed.counts) == (3, {"no_preference": 1, "duplicate": 2})
    assert [(each.line, each.code) for each in fixed.dropped] == [(13, "no_preference"), (14, "duplicate"), (15, "duplicate")]
    assert fixed.dataset.report.counts == {}
    with datasets.open(alice, fixed.dataset.id) as raw:
        assert [json.loads(line) for line in raw] == pairs
    nothing_left = datasets.upload(alice, an_upload(name="fine"))
    assert datasets.fix(alice, nothing_left.id).dropped_rows == 0


def test_two_versions_are_told_apart_by_their_rows(datasets, alice, bob):
    old = datasets.upload(alice, an_upload(jsonl(*rows()), name="a"))
    new = datasets.upload(alice, an_upload(jsonl(chat("New?"), *rows()[2:], chat("Question 1?", "Mended.")), name="a"))
    found = datasets.difference(alice, old.id, new.id)
    assert (found.same, found.added.rows, found.dropped.rows, found.changed_rows) == (10, 1, 1, 1)
    assert (found.added.lines, found.dropped.lines) == ((1,), (1,))
    assert [(each.line, each.was) for each in found.changed] == [(12, 2)]
    assert {shift.distribution for shift in found.shifts} >= {"roles", "lengths"}
    assert datasets.difference(alice, old.id, old.id).same == 12
    with pytest.raises(NotFound):
        datasets.difference(bob, old.id, new.id)


def test_rows_to_look_at_are_chosen_by_length_by_chance_and_by_what_was_remarked(datasets, alice, bob):
    long, odd = chat("Long?", "word " * 50), chat("", "To nothing.")
    dataset = datasets.upload(alice, an_upload(b"\n" + jsonl(*rows(), long, odd, chat("x" * 30_000))))
    longest = datasets.samples(alice, dataset.id, "longest", 2).data
    assert [each.line for each in longest] == [16, 14]
    assert longest[0].row["messages"][0]["content"].endswith("10,000 more characters]")
    assert longest[1].row == long
    shortest = datasets.samples(alice, dataset.id, "shortest", 1).data
    assert shortest[0].row == odd
    flagged = datasets.samples(alice, dataset.id, "flagged", 5).data
    assert (15, "empty_content") in [(each.line, finding.code) for each in flagged for finding in each.findings]
    by_chance = [datasets.samples(alice, dataset.id, "random", 5, seed).data for seed in (1, 1, 2)]
    assert by_chance[0] == by_chance[1] != by_chance[2]
    assert len(datasets.samples(alice, dataset.id, "random", 200).data) == 15
    with pytest.raises(NotFound):
        datasets.samples(bob, dataset.id, "random", 5)


def test_what_two_datasets_share_is_counted(datasets, alice):
    train = datasets.upload(alice, an_upload(jsonl(*rows())))
    held_out = datasets.upload(alice, an_upload(jsonl(*rows()[10:], chat("Question 0?", "Else.")), name="val"))
    told, lines = datasets.shared(alice, held_out.id, train.id)
    assert ((told.rows, told.prompts), lines) == ((2, 1), (1, 2))
