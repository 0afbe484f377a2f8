"""What an upload is refused with."""

from __future__ import annotations

import re

from pydantic import TypeAdapter, ValidationError

from luthier.datasets import rules
from luthier.datasets.mapping import parse_mapping
from luthier.datasets.types import Finding, Report, Upload
from luthier.errors import DatasetNotReady, DatasetRejected, FieldInvalid, LuthierError, TooLarge, counted
from luthier.values import Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def not_ready(state: str) -> DatasetNotReady:
    """Why a dataset in this state cannot be used yet, or ever."""
    if state == "rejected":
        return DatasetNotReady("The dataset was rejected.", hint="Read its report, mend the file, upload it again.")
    return DatasetNotReady(
        "The dataset is still being validated.", hint="Ask again in a few seconds, until its state is `ready`."
    )


def rejection(report: Report, kept_id: str | None = None) -> LuthierError:
    """The error of a file with errors: the first one leads, the report is in the details, with the id of what is kept of it."""
    first = next(finding for finding in report.findings if finding.severity == "error")
    where = "" if first.line is None else f"Line {first.line}: "
    more = f" ({counted(report.errors - 1, 'more error')}.)" if report.errors > 1 else ""
    kind = TooLarge if first.code in {"line_too_long", "too_many_rows", "ratio", "unpacked_size"} else DatasetRejected
    hint, details = first.fix, report.model_dump(mode="json")
    if kept_id is not None:
        hint, details = (
            f"{hint} Or keep the good rows only, within 24 hours: dataset fix {kept_id}",
            {**details, "dataset_id": kept_id},
        )
    return kind(f"{where}{first.message}{more}", hint=hint, param="file", details=details, code=first.code)


def not_arrived(why: LuthierError, origin: str | None) -> Report:
    """The report of a file that could not be fetched."""
    finding = Finding(line=None, code=why.error_code, severity="error", message=why.message, fix=why.hint or "Try it again.")
    return Report(
        format=None,
        origin=origin,
        schema_name=None,
        bytes=0,
        rows=0,
        usable_rows=0,
        errors=1,
        counts={finding.code: 1},
        findings=(finding,),
    )


def name_of(upload: Upload) -> str:
    """What the dataset is to be called. Raises: FieldInvalid."""
    if upload.name is None:
        return rules.name_of(upload.file_name)
    try:
        return _NAME.validate_python(upload.name)
    except ValidationError as error:
        raise FieldInvalid(
            f"The name cannot be used: {error.errors()[0]['msg'].lower()}.",
            hint=f"1 to {rules.MAX_NAME} characters in one line.",
            param="name",
        ) from None


def mapping_of(upload: Upload) -> dict[str, str]:
    """Which field is read from which. Raises: FieldInvalid."""
    try:
        return parse_mapping(upload.mapping) if upload.mapping is not None else {}
    except ValueError as error:
        raise FieldInvalid(
            f"The mapping cannot be read: {error}.",
            hint="Name the fields that are needed, each with the one that it is read from: prompt=question,completion=answer.",
            param="map",
        ) from None


def expected_sha256(given: str | None) -> str | None:
    """What the bytes should hash to, if that was said. Raises: FieldInvalid."""
    if given is not None and not _SHA256.fullmatch(given.lower()):
        raise FieldInvalid("A sha256 is 64 hexadecimal digits.", hint="Run `sha256sum` on the file.", param="sha256")
    return None if given is None else given.lower()
