"""The report of a dataset as text for people: what its rows are, and what was found, each kind of finding once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import counted
from luthier.faces.cli.shown import clean, pairs, talk

if TYPE_CHECKING:
    from luthier.datasets.types import Report

_MOST_LINES = 10
"""Lines that are named of one kind of finding; `--json` has more, and the report counts them all."""
_TOLD_APART = 3
"""Findings of one kind that each say something else."""
_INDENT = "    "


def report_text(report: Mapping[str, Any]) -> str:
    """What validation saw."""
    lengths = report.get("lengths") or {}
    unit = lengths.get("unit")
    spread = ", ".join(f"{name} {lengths.get(name)}" for name in ("min", "median", "p95", "max")) if lengths else None
    over = report.get("over_context")
    facts = pairs(
        [
            ("rows", f"{report.get('usable_rows')} usable of {report.get('rows')} ({_kind(report)})"),
            ("for", " or ".join(report.get("methods") or ()) or None),
            ("tokens", _tokens(report)),
            ("lengths", spread and f"{spread} {unit}"),
            ("too long", f"{over} rows longer than {report.get('context')} tokens" if over else None),
            ("duplicates", report.get("duplicates")),
            ("nearly so", report.get("near_duplicates") or None),
            ("conflicts", report.get("conflicts") or None),
            *((f"in {each['name']}", f"{each['rows']} rows, {each['prompts']} prompts") for each in report.get("against") or ()),
            ("left out", f"{report['dropped_rows']} bad rows" if report.get("dropped_rows") else None),
            ("not read", _not_read(report)),
            ("verdict", _verdict(report)),
        ]
    )
    return "\n".join([facts, *findings_lines(report)])


def early(bar: Callable[[str, int, int | None], None]) -> Callable[[Report], None]:
    """Shows how far the check of a file is, and the first finding of each kind as soon as there is one."""
    told: set[str] = set()

    def hear(report: Report) -> None:
        bar("", report.read_bytes or 0, report.bytes)
        for each in report.findings:
            if each.code not in told:
                told.add(each.code)
                talk(clean(f"  line {each.line or '-'}: {each.message}"))

    return hear


def findings_lines(report: Mapping[str, Any]) -> list[str]:
    """Every kind of finding, errors first: how many there are, where, and what to do about it."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for finding in report.get("findings") or ():
        groups.setdefault((str(finding.get("severity")), str(finding.get("code"))), []).append(finding)
    codes = [code for _, code in groups]
    lines: list[str] = []
    for severity, code in sorted(groups, key=lambda group: group[0]):
        shown = groups[severity, code]
        # A code that is both is counted as one: of each part only what is shown is known.
        total = max(len(shown), (report.get("counts") or {}).get(code, 0)) if codes.count(code) == 1 else len(shown)
        lines += _group(f"{severity} {code}", shown, total)
    return [clean(line) for line in lines]


def _group(title: str, shown: Sequence[Mapping[str, Any]], total: int) -> list[str]:
    said = [_flat(each.get("message")) for each in shown]
    fixes = list(dict.fromkeys(_flat(each.get("fix")) for each in shown))
    if total == 1:
        told, rest = [f"{_INDENT}{_place(shown[0])}{said[0]}"], shown[1:]
    elif len(set(said)) == 1:
        told, rest = [f"{_INDENT}{said[0]}"], shown
    else:
        told = [f"{_INDENT}{_place(each)}{message}" for each, message in zip(shown, said, strict=True)][:_TOLD_APART]
        rest = shown[_TOLD_APART:]
    where = _where(rest, total - (len(shown) - len(rest)), more=rest is not shown)
    advice = [f"{_INDENT}{fixes[0]}"] if fixes[0] else []
    return [f"  {title}{f': {total:,}' if total > 1 else ''}", *told, *where, *advice]


def _where(findings: Sequence[Mapping[str, Any]], total: int, *, more: bool) -> list[str]:
    """The lines of findings that say the same, or are not told one by one."""
    lines = [each["line"] for each in findings if each.get("line")]
    named = list(dict.fromkeys(lines))[:_MOST_LINES]
    if not named:
        return []
    left = total - sum(line in named for line in lines)
    rest = f" and {left:,} more" if left > 0 else ""
    return [f"{_INDENT}{'also ' if more else ''}line{'s' if len(named) > 1 else ''} {', '.join(map(str, named))}{rest}"]


def _place(finding: Mapping[str, Any]) -> str:
    return f"line {finding['line']}: " if finding.get("line") else ""


def _flat(text: object) -> str:
    return str(text or "").replace("\n", " ")


def _kind(report: Mapping[str, Any]) -> str:
    return str(report.get("schema_name") or "no known kind").replace("_", " ")


def _tokens(report: Mapping[str, Any]) -> str | None:
    return None if report.get("tokens") is None else f"{report['tokens']:,}, {report.get('loss_tokens') or 0:,} of them learned"


def _not_read(report: Mapping[str, Any]) -> str | None:
    unread: Mapping[str, int] = report.get("unread_fields") or {}
    return ", ".join(f"{name} ({rows:,} rows)" for name, rows in unread.items()) or None


def _verdict(report: Mapping[str, Any]) -> str:
    errors, warnings = report.get("errors", 0), report.get("warnings", 0)
    counts = [counted(count, noun) for count, noun in ((errors, "error"), (warnings, "warning")) if count]
    return ": ".join(part for part in ("refused" if errors else "accepted", ", ".join(counts)) if part)
