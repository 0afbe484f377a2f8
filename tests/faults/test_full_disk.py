"""A server whose disk is full or broken: what is refused leaves nothing behind, and what was there stays (P12)."""

from __future__ import annotations

import errno
from itertools import count

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FULL = (errno.ENOSPC, errno.EDQUOT)


def in_full(*values):
    return pytest.param(*values, marks=pytest.mark.prove)


CALLS = ("write", "fsync", "rename", "link", "make")


def state_of(api) -> tuple:
    ids = [sorted(each["id"] for each in api.listed(noun)) for noun in ("datasets", "jobs")]
    return (*ids, api.folders("jobs"))


def broken_one_by_one(api, disk, fault, ask):
    """Break the server's first call under `fault.under` and all later ones, then from the second on, until none is reached."""
    for at in count(1):
        before = state_of(api)
        disk.arm(fault(at))
        answer = ask()
        # What a child of the server meets, the server answers for; what others meet is not its business.
        broke = disk.hits(api.process.pid) > 0 or (answer.status_code != 201 and disk.hits() > 0)
        disk.disarm()
        yield before, answer, state_of(api)
        if not broke:
            assert answer.status_code == 201
            return


def check_refused(answer, status: int, code: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["hint"]


@pytest.mark.parametrize("number", [errno.ENOSPC, in_full(errno.EDQUOT)])
def test_p12_an_upload_onto_a_full_disk_is_refused_and_not_listed(faulty_api, disk, fault, rows, number):
    api, refused = faulty_api, 0
    for call in CALLS:
        for under in ("/users/", "/scratch/"):

            def at_users(at, call=call, under=under):
                return fault(call, "always", at, number, f"{api.data}{under}")

            for before, answer, after in broken_one_by_one(api, disk, at_users, lambda: api.upload(rows(50))):
                if answer.status_code != 201:  # a file that cannot be linked is copied, a projection is done without
                    check_refused(answer, 507, "storage_full")
                    assert after == before
                    refused += 1
    assert refused > 10


@pytest.mark.parametrize("number", [errno.ENOSPC, in_full(errno.EDQUOT), in_full(errno.EIO)])
def test_p12_a_submit_onto_a_broken_disk_is_not_acknowledged_and_leaves_nothing(faulty_api, disk, fault, number):
    api, refused = faulty_api, 0
    for call in CALLS:

        def at_jobs(at, call=call):
            return fault(call, "always", at, number, f"{api.data}/users/")

        for before, answer, after in broken_one_by_one(api, disk, at_jobs, api.submit):
            if answer.status_code != 201:
                check_refused(answer, *((507, "storage_full") if number in FULL else (500, "internal")))
                assert after == before
                refused += 1
    assert refused > 5


@pytest.mark.parametrize(("number", "status"), [in_full(errno.ENOSPC, 507), in_full(errno.EIO, 500)])
def test_p12_a_database_that_cannot_write_acknowledges_nothing(faulty_api, disk, fault, number, status):
    api = faulty_api

    def at_database(at):
        return fault("write", "always", at, number, "luthier.db")

    for before, answer, after in broken_one_by_one(api, disk, at_database, api.submit):
        if answer.status_code != 201:
            assert answer.status_code == status
            assert after[:2] == before[:2]  # a folder may stay: whether the commit is on the disk, nobody knows yet
    api.kill()
    api.up()
    assert state_of(api) == after
    assert api.submit().status_code == 201


def test_p12_on_a_small_disk_nothing_is_half_there_and_all_goes_on_once_there_is_room(small_api, small_disk, rows):
    api = small_api
    before = state_of(api)
    check_refused(api.upload(rows(400_000)), 507, "storage_full")  # about 20 MB
    small_disk.fill()
    check_refused(api.upload(rows(20_000)), 507, "storage_full")
    check_refused(api.submit("one-key"), 507, "storage_full")
    assert state_of(api) == before
    assert not list(api.seen.glob("scratch/*"))
    small_disk.empty()
    assert api.submit("one-key").status_code == 201
    assert api.upload(rows(50)).status_code == 201
    after = state_of(api)
    api.kill()
    api.up()
    assert state_of(api) == after


def test_a_refused_upload_leaves_no_folder(faulty_api, disk, fault, rows):
    api = faulty_api
    before = api.folders("data")
    disk.arm(fault("fsync", "always", 4, errno.ENOSPC, f"{api.data}/users/"))
    assert api.upload(rows(50)).status_code == 507
    assert api.folders("data") == before


def test_a_disk_that_is_full_while_a_file_is_checked_is_not_the_files_fault(faulty_api, disk, fault, rows):
    disk.arm(fault("write", "always", 1, errno.ENOSPC, "/rows"))
    check_refused(faulty_api.upload(rows(50)), 507, "storage_full")


def test_a_job_that_comes_back_after_a_failed_flush_and_a_kill_has_its_folder(faulty_api, disk, fault):
    api = faulty_api
    assert api.submit().status_code == 201  # the journal has begun: what follows is appended to it
    before = {job["id"] for job in api.listed("jobs")}
    disk.arm(fault("fsync", "always", 1, errno.ENOSPC, "luthier.db-wal"))
    assert api.submit("one-key").status_code == 500
    api.kill()
    disk.disarm()
    api.up()
    assert {job["id"] for job in api.listed("jobs")} - before <= api.folders("jobs")
    assert api.submit("one-key").json()["job"]["id"] in api.folders("jobs")
