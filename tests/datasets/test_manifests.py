"""Every file of a folder with a manifest gets the verdict, the lines and the counts that the manifest expects.

Set LUTHIER_SHARED_DATA to a folder that holds one as `broken/`; nothing of it is in the repository.
"""

import os
import zipfile
from pathlib import Path

import pytest

from luthier.datasets.types import Upload

from .manifests import differences, entries, report_of
from .test_idx import idx

_SHARED = Path(os.environ.get("LUTHIER_SHARED_DATA", "does/not/exist"))
BROKEN = _SHARED / "broken"
ENTRIES = entries(BROKEN) if BROKEN.is_dir() else []
_OTHERWISE = {
    "ok-labels-idx1-ubyte": "the manifest takes one file of a pair for a dataset; here a pair is one upload, so that the one "
    "version of it holds both, and labels alone are refused with that remedy (the test below uploads the pair)"
}


def _case(entry):
    why = _OTHERWISE.get(entry["file"])
    return pytest.param(entry, id=entry["file"], marks=[pytest.mark.xfail(reason=why)] if why else [])


@pytest.mark.skipif(not ENTRIES, reason="LUTHIER_SHARED_DATA names no folder with data")
@pytest.mark.parametrize("entry", [_case(entry) for entry in ENTRIES])
def test_a_file_is_judged_as_a_sensible_user_would(entry):
    assert differences(entry, report_of(BROKEN / entry["file"])) == []


@pytest.mark.skipif(not ENTRIES, reason="LUTHIER_SHARED_DATA names no folder with data")
def test_the_labels_are_read_with_images_from_one_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "pair.zip", "w") as pair:
        pair.writestr("images-idx3-ubyte", idx(200, 2, 2, data=bytes(800)))
        pair.write(BROKEN / "ok-labels-idx1-ubyte", "labels-idx1-ubyte")
    report = report_of(tmp_path / "pair.zip")
    assert (report.errors, report.usable_rows, report.format) == (0, 200, "idx")


@pytest.mark.skipif(not ENTRIES, reason="LUTHIER_SHARED_DATA names no folder with data")
def test_rows_that_leaked_into_validation_are_told_with_both_lines(datasets, alice):
    """The training file is not among the data: the manifest says that its lines 16 to 20 are the first five here."""
    leaked = BROKEN / "leak_val.jsonl"
    fresh = b"".join(b'{"prompt": "What is number %d?", "completion": "It is %d."}\n' % (n, n) for n in range(15))
    chats = fresh.replace(b'"prompt": ', b'"messages": [{"role": "user", "content": ')
    chats = chats.replace(b', "completion": ', b'}, {"role": "assistant", "content": ').replace(b"}\n", b"}]}\n")
    train = chats + b"".join(leaked.read_bytes().splitlines(keepends=True)[:5])
    held = datasets.upload(alice, Upload(iter([train]), "leak_train"))
    report = datasets.upload(alice, Upload(iter([leaked.read_bytes()]), "leak_val", against=(held.id,))).report
    (wanted,) = (entry["issues"] for entry in ENTRIES if entry["file"] == leaked.name)
    told = {each.line: each.message for each in report.findings if each.code == "train_val_overlap"}
    assert told == {issue["line"]: f"The row is also line {issue['why'].split()[-1]} of leak_train@1." for issue in wanted}
    assert [(each.rows, each.prompts) for each in report.against] == [(5, 0)]
