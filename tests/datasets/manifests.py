"""A folder of files with a `manifest.json` that says what a sensible user expects of each, against what validation says.

`python tests/datasets/manifests.py FOLDER` prints what differs. A manifest names files with `verdict` and `acceptable`
(accept, warn, reject), `issues` with their `line` or `row`, `n_rows`, `n_usable` and the `task` that the file is for. Codes are
those of the manifest's author: verdict, lines and counts are compared.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luthier
from luthier.datasets import kinds
from luthier.datasets.sandbox import Ruler, Sandbox, Task
from luthier.datasets.types import Report

_TINY = Path(luthier.__file__).parent / "bases" / "tiny"
_METHODS = {"classification": "classifier", "mnist": "classifier"}


def entries(folder: Path) -> list[dict[str, Any]]:
    """The files that the manifest of a folder names."""
    return json.loads((folder / "manifest.json").read_text("utf-8"))["files"]


def report_of(path: Path, mapping: Mapping[str, str] | None = None) -> Report:
    """What validation says about a file."""
    with tempfile.TemporaryDirectory() as scratch:
        checked = Sandbox().check(
            Task(path, Path(scratch) / "rows", Path(scratch), mapping=mapping or {}), Ruler("luthier/tiny", _TINY, 1024)
        )
    assert checked is not None
    return checked.report


def verdict(report: Report, method: str) -> str:
    """What happens to the file: a job of another method than the rows serve is refused, too."""
    if report.errors or kinds.refusal(report.schema_name, method) is not None:
        return "reject"
    return "warn" if report.warnings else "accept"


def differences(entry: dict[str, Any], report: Report) -> list[str]:
    """What validation says otherwise than the manifest. Whole-file problems have no line there, or only say that there is one."""
    found = verdict(report, _METHODS.get(entry["task"], entry["task"]))
    told = [] if found in entry["acceptable"] else [f"{found}, expected {entry['verdict']}"]
    lines = {finding.line for finding in report.findings}
    # Rows that are nearly the same are remarked in files that were made from one row; the manifest does not look for them.
    if report.errors or report.warnings > report.counts.get("near_duplicate", 0):
        wanted = {issue.get("line", issue.get("row")) for issue in entry["issues"]} - {None}
        if wanted - lines and entry["lines_are"] == "all":
            told.append(f"nothing at {sorted(wanted - lines)}")
        if entry["issues"] and not report.findings:
            told.append(f"nothing of {entry['issues'][0]['code']}")
        errors = {finding.line for finding in report.findings if finding.severity == "error"} - {None}
        if entry["lines_are"] == "all" and wanted and errors - wanted:
            told.append(f"errors also at {sorted(errors - wanted)}")
    for name, counted in (("n_rows", report.rows), ("n_usable", _usable(entry, report))):
        if entry[name] is not None and report.rows and entry[name] != counted:
            told.append(f"{name} {counted}, expected {entry[name]}")
    return told


def _usable(entry: dict[str, Any], report: Report) -> int:
    """Rows that are left, were each finding as severe as the manifest has it."""
    lines = {
        severity: {finding.line for finding in report.findings if finding.severity == severity}
        for severity in ("error", "warning")
    }
    wanted = {
        severity: {issue.get("line") for issue in entry["issues"] if issue["severity"] == severity} - {None}
        for severity in ("error", "warning")
    }
    return report.usable_rows - len(lines["warning"] & wanted["error"]) + len(lines["error"] & wanted["warning"])


def main() -> int:
    folder, wrong = Path(sys.argv[1]), 0
    for entry in entries(folder):
        report = report_of(folder / entry["file"])
        told = differences(entry, report)
        wrong += bool(told)
        if told:
            seen = [(finding.line, finding.code) for finding in report.findings[:4]]
            print(f"{entry['file']:36} {'; '.join(told)}   {seen}")
    print(f"{wrong} files differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
