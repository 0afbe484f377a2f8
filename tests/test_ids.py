import pytest

from luthier import ids


def test_ids_sort_by_time():
    made = [ids.new("job", at_ms=at) for at in (1, 2, 1_000, 1_700_000_000_000)]
    assert made == sorted(made)


def test_ids_are_never_the_same():
    assert len({ids.new("job") for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "text",
    ["", "..", "%00", "job_", "job_" + "a" * 26, "job_" + "0" * 27, "JOB_" + "0" * 26, "ds_" + "0" * 26, "job_٠" + "0" * 25],
)
def test_what_is_no_job_id(text):
    assert not ids.is_id(text, "job")
