"""The thread that removes what waits for nobody any more."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from luthier.datasets.types import Upload
from luthier.errors import DatasetRejected
from luthier.server.sweeper import sweeping
from luthier.settings import Settings
from luthier.wiring import build

ROWS = b'{"prompt": "1 + 1 =", "completion": " 2"}\n{"prompt": 1}\n'


def test_a_refused_file_is_gone_after_a_day_without_anybody_asking(tmp_path):
    clock = [datetime.now(UTC)]
    platform = build(Settings(data=tmp_path), now=lambda: clock[0])
    actor = platform.accounts.authenticate(platform.accounts.first_start())
    with pytest.raises(DatasetRejected):
        platform.datasets.upload(actor, Upload([ROWS]))
    kept = list(tmp_path.glob("users/*/data/*/raw/upload"))
    assert len(kept) == 1
    with sweeping(platform, pause_s=0.01):
        clock[0] += timedelta(hours=23)
        platform.datasets.sweep()
        assert kept[0].exists()
        clock[0] += timedelta(hours=2)
        gone = threading.Event()
        while kept[0].exists():  # the test's own time limit ends it
            gone.wait(0.01)
    platform.close()
