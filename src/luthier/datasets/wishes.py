"""What the owner of a file asked for, kept beside it until it is checked."""

from __future__ import annotations

from pydantic import Field

from luthier.datasets.places import WISHES
from luthier.datasets.refusals import mapping_of
from luthier.datasets.types import Errand, Upload
from luthier.seams import NotStored, Storage
from luthier.values import Frozen


class Wishes(Frozen):
    """How a file is to be checked, and from where it is to come, where it is not here yet."""

    against: tuple[str, ...] = ()
    mapping: dict[str, str] = Field(default_factory=dict)
    origin: str | None = None
    drop: bool = False
    errand: Errand | None = None

    @classmethod
    def of(cls, upload: Upload) -> Wishes:
        """Raises: FieldInvalid (map)."""
        return cls(
            against=upload.against,
            mapping=mapping_of(upload),
            origin=upload.origin,
            drop=upload.drop_bad_rows,
            errand=upload.errand,
        )

    @classmethod
    def read(cls, storage: Storage, home: str) -> Wishes:
        """What was kept in the folder of a dataset; the usual, where nothing was."""
        try:
            return cls.model_validate_json(storage.read(home + WISHES))
        except NotStored:
            return cls()

    def write(self, storage: Storage, home: str) -> None:
        """Keep them. Raises: StorageFull."""
        storage.write(home + WISHES, self.model_dump_json().encode())
