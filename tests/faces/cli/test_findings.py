"""The report of a dataset as a terminal shows it."""

from luthier.faces.cli.findings import findings_lines, report_text


def finding(line, code, message, severity="warning", fix="Mend it."):
    return {"line": line, "code": code, "severity": severity, "message": message, "fix": fix}


def test_findings_that_say_the_same_are_told_once_with_their_lines_and_their_number():
    report = {"counts": {"missing": 7473}, "findings": [finding(n, "missing", "It lacks `a`.", "error") for n in range(1, 21)]}
    assert findings_lines(report) == [
        "  error missing: 7,473",
        "    It lacks `a`.",
        "    lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 7,463 more",
        "    Mend it.",
    ]


def test_findings_that_differ_are_told_one_by_one_and_errors_first():
    near = [finding(n + 9, "near", f"Nearly line {n}.") for n in range(1, 6)]
    report = {"counts": {"near": 5, "bad": 1}, "findings": [*near, finding(2, "bad", "No \x1b[31mtext.", "error", "")]}
    assert findings_lines(report) == [
        *("  error bad", "    line 2: No text."),
        *("  warning near: 5", "    line 10: Nearly line 1.", "    line 11: Nearly line 2.", "    line 12: Nearly line 3."),
        *("    also lines 13, 14", "    Mend it."),
    ]


def test_a_line_with_several_findings_is_named_once():
    findings = [finding(n, "secret", "A key.") for n in (3, 3, 5)]
    assert findings_lines({"counts": {"secret": 9}, "findings": findings})[2] == "    lines 3, 5 and 6 more"


def test_a_code_that_is_both_is_told_as_both():
    report = {
        "counts": {"roles": 3},
        "findings": [finding(n, "roles", "Odd.", "error" if n == 1 else "warning") for n in (1, 2, 3)],
    }
    assert [line for line in findings_lines(report) if "roles" in line] == ["  error roles", "  warning roles: 2"]


def test_a_finding_of_the_whole_file_has_no_line():
    report = {"counts": {"empty": 1}, "findings": [finding(None, "empty", "No rows.", "error", "Write some.")]}
    assert findings_lines(report) == ["  error empty", "    No rows.", "    Write some."]


def test_the_verdict_and_what_is_not_read_stand_among_the_facts():
    facts = {"usable_rows": 12, "rows": 12, "schema_name": "prompt_completion", "warnings": 1, "unread_fields": {"topic": 12}}
    text = report_text(facts)
    assert "not read  topic (12 rows)" in text.splitlines()
    assert "verdict   accepted: 1 warning" in text.splitlines()
    assert "(prompt completion)" in text
    refused = report_text({"usable_rows": 0, "rows": 2, "errors": 2})
    assert "(no known kind)" in refused
    assert "refused: 2 errors" in refused
