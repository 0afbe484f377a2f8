"""Every file of a folder with a manifest gets the verdict, the lines and the counts that the manifest expects.

Set LUTHIER_SHARED_DATA to a folder that holds one as `broken/`; nothing of it is in the repository.
"""

import os
from pathlib import Path

import pytest

from .manifests import differences, entries, report_of

_SHARED = Path(os.environ.get("LUTHIER_SHARED_DATA", "does/not/exist"))
BROKEN = _SHARED / "broken"
ENTRIES = entries(BROKEN) if BROKEN.is_dir() else []
_OTHERWISE = {"ok-labels-idx1-ubyte": "labels alone teach nothing: their images come with them, in one zip"}


def _case(entry):
    why = _OTHERWISE.get(entry["file"])
    return pytest.param(entry, id=entry["file"], marks=[pytest.mark.xfail(reason=why)] if why else [])


@pytest.mark.skipif(not ENTRIES, reason="LUTHIER_SHARED_DATA names no folder with data")
@pytest.mark.parametrize("entry", [_case(entry) for entry in ENTRIES])
def test_a_file_is_judged_as_a_sensible_user_would(entry):
    assert differences(entry, report_of(BROKEN / entry["file"])) == []
