"""What must hold before a process works on a data folder: it can be written, on a disk of this machine, by a sane clock.

And what must not be left behind when one falls: its memory, which holds every secret of the settings.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import psutil

from luthier.errors import SetupError

BUILT = datetime(2026, 11, 21, tzinfo=UTC)
"""When this version was made: an earlier time of day is a clock that was never set."""
SHARED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2"}
) | {f"fuse.{name}" for name in ("sshfs", "ceph", "ceph-fuse", "glusterfs", "gcsfuse", "s3fs", "rclone", "juicefs")}
"""What several machines can have at a time: there no lock keeps a second server out, and SQLite loses data."""


def prepare(data: Path) -> None:
    """Make the folder if need be. Raises: SetupError where no database can live in it."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SetupError(f"LUTHIER_DATA: the folder cannot be made ({error.strerror}).", hint="Give another one.") from None
    if not os.access(data, os.W_OK | os.X_OK):
        raise SetupError("LUTHIER_DATA: the folder cannot be written.", hint="Give it to this user, or give another one.")
    kind = filesystem(data.resolve(), [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)])
    if kind in SHARED:
        raise SetupError(
            f"LUTHIER_DATA: the folder is on a network filesystem ({kind}), where SQLite loses data.",
            hint="Give a folder on a disk of this machine.",
        )


def leave_no_core() -> None:
    """From here on neither this process nor any child of it leaves its memory on the disk where it crashes."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def filesystem(path: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """The kind of filesystem that `path` is on, where `mounts` are; of two at one place the later covers the other.

    >>> filesystem(Path("/srv/data"), [("/", "ext4"), ("/srv", "nfs4"), ("/srv/database", "xfs")])
    'nfs4'
    """
    over = [(len(Path(point).parts), kind) for point, kind in mounts if path.is_relative_to(point)]
    deepest = max((depth for depth, _ in over), default=0)
    return next((kind for depth, kind in reversed(over) if depth == deepest), "")


def clock_warning(now: datetime) -> str | None:
    """What to say of a clock that stands before the day on which this version was made.

    >>> clock_warning(datetime(2030, 1, 1, tzinfo=UTC))
    """
    if now >= BUILT:
        return None
    return (
        f"WARNING: this machine's clock says {now:%Y-%m-%d}, before this version was made: logins and budgets go by it. Set it."
    )
