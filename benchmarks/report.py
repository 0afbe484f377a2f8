"""The recorded figures as a page with a drawing: results/<machine>/README.md and speed.svg."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
GOALS = {"trl_default": 7.0, "trl_best": 3.0, "llamafactory_best": 2.0}
"""How many times their speed we set out for; the gang's is `GANG_GOAL`."""
GANG_GOAL = 1.1
STREAM_GOALS = {"llama.cpp": 1.0}
BATCH_GOALS = {("peft", 8): 5.0}
"""By peer and adapters."""
_WIDE, _BAR, _LEFT = 720, 26, 200

Row = Mapping[str, Any]


def main() -> int:
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        trained = newest(folder, "train")
        gangs = sorted((gang for gang in map(_read, folder.glob("gang-[0-9]*.json"))), key=lambda gang: gang["members"])
        latest = {gang["members"]: gang for gang in gangs}
        (folder / "speed.svg").write_text(drawing(trained["rows"]), "utf-8")
        estimated = [_read(max(found)) for base in ("tiny", "135m") if (found := list(folder.glob(f"estimates-{base}-*.json")))]
        text = page(trained, list(latest.values())) + answers(folder) + estimates(estimated)
        text += checks(folder) + tokens(folder) + load(folder) + predictions(folder)
        (folder / "README.md").write_text(text, "utf-8")
        print(folder / "README.md")
    return 0


def newest(folder: Path, name: str) -> dict[str, Any]:
    """Names end in the day."""
    return _read(max(folder.glob(f"{name}-[0-9]*.json")))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def page(trained: Mapping[str, Any], gangs: Sequence[Mapping[str, Any]]) -> str:
    machine, rows = trained["machine"], trained["rows"]
    parts = [
        "# Recorded on this machine",
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; one matrix product reaches "
        f"{trained['matrix_peak_gflops']:,.0f} GFLOP/s. "
        "[How it is measured](../../README.md). Written by `benchmarks/report.py` from the records beside it.",
        "## Training beside its peers",
        "![Our tokens a second over theirs](speed.svg)",
        table(
            ("peer", "its setting", "times as fast (95 %)", "goal", "memory", "start to tenth step", "tokens/s", "MFU", "rounds"),
            [_train_cells(row) for row in rows],
        ),
        "In the drawing the thin line is the 95 % interval and the red mark the goal. Memory and time to the tenth step are ours "
        "over theirs: less is better. Pairs are ours, theirs.",
        "## Many adapters in one pass",
        table(
            ("members", "against", "times as fast (95 %)", "goal", "memory", "memory of so many processes", "loss gap", "rounds"),
            [_gang_cells(gang, row) for gang in gangs for row in gang["rows"]],
        ),
        "`memory` is that of the gang over one such run, the column beside it that over all runs at once, by multiplication.",
    ]
    return "\n\n".join(parts) + "\n"


def answers(folder: Path) -> str:
    """Generation with several adapters on one base; empty without a record."""
    records = list(folder.glob("generation-135m-*.json"))
    if not records:
        return ""
    record = _read(max(records))
    heads = ("adapters", "requests", "against", "times as fast (95 %)", "goal", "tokens/s (range)", "to the first token", "GiB")
    rows = sorted(record["rows"], key=lambda row: (row["requests"], row["adapters"], row["peer"]))
    said = (
        f"Base of 135 M weights in fp32, {rows[0]['tokens']} greedy tokens for each request, whose prompts have 24 to 160; in "
        f"rounds in which everybody takes a turn ({min(row['rounds'] for row in rows)} and more). Ours answers all in one batch, "
        "PEFT and llama.cpp those of one adapter in one batch after those of another. Pairs are ours, theirs; seconds to the "
        "first token are the mean over requests, memory the peak of the process, in which ours and PEFT's have torch. "
        f"At least {min(row['same_tokens'] for row in rows):.1%} of the tokens were the same up to the first that was not."
    )
    return "\n" + "\n\n".join(["## Answers with many adapters", table(heads, [_answer_cells(row) for row in rows]), said]) + "\n"


def _answer_cells(row: Row) -> tuple[str, ...]:
    low, high = row["interval"]
    goal = STREAM_GOALS.get(row["peer"]) if row["requests"] == 1 else BATCH_GOALS.get((row["peer"], row["adapters"]))
    speeds = zip(row["tokens_per_second"], row["tokens_per_second_range"], strict=True)
    return (
        str(row["adapters"]),
        str(row["requests"]),
        row["peer"],
        f"**{row['speed_ratio']:.2f}** ({low:.2f} to {high:.2f})",
        "" if goal is None else f"{goal:g}",
        ", ".join(f"{median:.0f} ({least:.0f} to {most:.0f})" for median, (least, most) in speeds),
        ", ".join(f"{seconds:.2f} s" for seconds in row["first_token_s"]),
        ", ".join(f"{size:.2f}" for size in row["peak_gib"]),
    )


def estimates(records: Sequence[Mapping[str, Any]]) -> str:
    """What was said before a run, beside what it took; empty without a record."""
    rows = [row for record in records for row in record["rows"]]
    if not rows:
        return ""
    ratios = [row["memory_ratio"] for row in rows]
    heads = ("run", "memory, estimated", "measured", "ratio", "seconds, estimated", "measured", "corrected by")
    said = (
        f"Estimated memory is {min(ratios):.2f} to {max(ratios):.2f} of what the trainer held at its peak. Some constants of the"
    )
    parts = [
        "## Estimates",
        table(heads, [_estimate_cells(row) for row in rows]),
        f"{said} formula were chosen on runs like these, on this machine. Seconds are corrected by earlier jobs of the same "
        "method, base and hardware, from three on; the last column says how many.",
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def checks(folder: Path) -> str:
    """How fast a large file is checked; empty without a record."""
    if not any(folder.glob("validation-[0-9]*.json")):
        return ""
    found = newest(folder, "validation")["figures"]
    speeds, memory = found["mb_per_second"], found["memory_mib"]
    rows = [(name, f"{speed:,.0f}", f"{memory[name]:,} MiB") for name, speed in speeds.items()]
    said = (
        f"{found['megabytes']:,} MB of chat rows in JSON lines. `structure`: every row read, checked, searched for secrets, "
        "compared with all others for equality, and written as it is stored; `json` and `orjson` only read. The first finding, "
        f"of row 1,001, was told {found['first_finding_s']} s after the start of the check."
    )
    return "\n" + "\n\n".join(["## Checking a large file", table(("what", "MB/s", "memory of all processes"), rows), said]) + "\n"


def tokens(folder: Path) -> str:
    """How fast rows become tokens; empty without a record."""
    if not any(folder.glob("tokenising-[0-9]*.json")):
        return ""
    record = newest(folder, "tokenising")
    cells = [_token_cells(record[name]) for name in ("rates", "rates_of_a_small_file") if name in record]
    heads = (
        "rows",
        "ours: tokens/s",
        "`encode_batch`: tokens/s",
        "ours over `encode_batch`",
        "over it by 256",
        "over ours in one process",
    )
    first, second = record["jobs"]["first"]["first_step_s"], record["jobs"]["second"]["first_step_s"]
    said = (
        "Ours: a data file into the columns that training maps (parse, template, tokens, masks), the processes that are started "
        "for it included. `encode_batch` of `tokenizers` has the texts ready made, and gives ids alone. Median (range). "
        f"A job on {record['jobs']['rows']:,} rows made its first step {first:.1f} s after its submit, a second one on the same "
        f"version after {second:.1f} s."
    )
    return "\n" + "\n\n".join(["## Rows to tokens", table(heads, cells), said]) + "\n"


def _token_cells(found: Row) -> tuple[str, ...]:
    rates = (f"{found[name]['tokens_per_s']:,}" for name in ("ours", "library"))
    others = (found.get(f"ratio_to_{name}") for name in ("library", "library_by_256", "ours_in_one_process"))
    ratios = (
        "" if ratio is None else f"**{ratio['median']:.2f}** ({ratio['range'][0]:.2f}-{ratio['range'][1]:.2f})"
        for ratio in others
    )
    return f"{found['rows']:,}", *rates, *ratios


def _estimate_cells(row: Row) -> tuple[str, ...]:
    memory = f"{row['estimated_mib']:,} MiB", f"{row['measured_mib']:,} MiB", f"**{row['memory_ratio']:.2f}**"
    return row["case"], *memory, str(row["estimated_s"]), f"{row['measured_s']:.0f}", str(row["calibrated_by"])


def load(folder: Path) -> str:
    """What one server answered to requests that arrived when they were due; empty without a record."""
    if not list(folder.glob("load-[0-9]*.json")):
        return ""
    record = newest(folder, "load")
    heads = (*ARRIVED, "cores: API, its children, client", "disk's fsync, p50 and p95")
    parts = [
        "## One server under load",
        table(heads, [_load_cells(name, record["asked"][name]) for name in record["asked"]]),
        f"`luthier up` on SQLite with its defaults but for the limit of requests, which would end the most that it answers; "
        f"{record['seconds']:g} s each, 100,000 jobs in the list; client, server and supervisor share the machine. Latency "
        "counts from the moment at which a request was due; those moments are random, of that number on average. One that is "
        "asked more than it can answer falls behind: then the last columns say how far. `status alone` and `status while "
        "logins` are a quarter of the polls, the latter with 5 passwords a second hashed beside them.",
    ]
    return "\n" + "\n\n".join(parts) + "\n"


ARRIVED = ("asked", "due", "goal", "answered", "p50", "p95", "p99")
"""Of requests that arrive when they are due."""
LOAD_GOALS = {"submit": "50/s, p95 120 ms", "status": "800/s", "page_1": "p95 50 ms", "page_2000": "p95 50 ms"}


def _load_cells(name: str, asked: Row) -> tuple[str, ...]:
    most = f" (most: {asked['most_per_s']:,.0f}/s)" if "most_per_s" in asked else ""
    times = (f"{asked[each]:,.0f} ms" for each in ("p50_ms", "p95_ms", "p99_ms"))
    disk = f"{asked['fsync_ms']['p50']:.1f} ms, {asked['fsync_ms']['p95']:.1f} ms"
    answered = f"**{asked['answered_per_s']:,.0f}/s**{most}"
    cores = ", ".join(f"{asked['cores'][who]:.1f}" for who in ("server", "children", "client"))
    return (name.replace("_", " "), f"{asked['due_per_s']:,.0f}/s", LOAD_GOALS.get(name, ""), answered, *times, cores, disk)


def predictions(folder: Path) -> str:
    """How fast a classifier is asked, and beside it MLflow's server of the same network; empty without a record."""
    if not list(folder.glob("predict-[0-9]*.json")):
        return ""
    record = newest(folder, "predict")
    goals, peer = record["goals"], record.get("mlflow")
    asked = [("new images", record["new"], goals["new_per_s"]), ("images asked before", record["known"], goals["known_per_s"])]
    rows = [_predict_cells(name, found, f"{goal:,.0f}/s, p95 {goals['p95_ms']:g} ms") for name, found, goal in asked]
    if peer is not None:
        rows.append(_predict_cells("`mlflow models serve`, new images", peer, ""))
    heads = (*ARRIVED, "processor, ms an answer", "most, 16 clients that never wait")
    parts = [
        "## A classifier that is asked",
        table(heads, rows),
        "`POST /predict` with 784 floats: server, supervisor and engine process on two cores, the client on the others. MLflow's "
        "two workers run the same weights as TorchScript, and know no key, no limit, no log, no bill and no cache.",
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _predict_cells(name: str, found: Row, goal: str) -> tuple[str, ...]:
    times = (f"{found[each]:,.1f} ms" for each in ("p50_ms", "p95_ms", "p99_ms"))
    spent = ", ".join(f"{who} {ms:.2f}" for who, ms in found["cpu_ms_per_answer"].items())
    answered = f"**{found['answered_per_s']:,.0f}/s**"
    return (name, f"{found['due_per_s']:,.0f}/s", goal, answered, *times, spent, f"{found['most_per_s']:,.0f}/s")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown.

    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(cells)} |" if cells else f"|{'---|' * len(heads)}" for cells in (heads, (), *rows))


def _train_cells(row: Row) -> tuple[str, ...]:
    goal = GOALS.get(row["variant"])
    low, high = row["interval"]
    return (
        row["variant"],
        row["setting"],
        f"**{row['speed_ratio']:.2f}** ({low:.2f} to {high:.2f})",
        "" if goal is None else f"{goal:g}",
        f"{row['memory_ratio']:.2f}",
        f"{row['tenth_step_ratio']:.2f}",
        ", ".join(f"{speed:,.0f}" for speed in row["tokens_per_second"]),
        ", ".join(f"{share:.0%}" for share in row["mfu"]),
        str(row["rounds"]),
    )


def _gang_cells(gang: Mapping[str, Any], row: Row) -> tuple[str, ...]:
    low, high = row["interval"]
    return (
        str(gang["members"]),
        row["variant"],
        f"**{row['speed_ratio']:.2f}** ({low:.2f} to {high:.2f})",
        f"{GANG_GOAL:g}" if row["variant"] == "luthier" else "",
        f"{row['memory_ratio']:.2f}",
        f"{row['memory_ratio_to_processes']:.2f}",
        f"{row['loss_gap']:.1g}",
        str(row["rounds"]),
    )


def drawing(rows: Sequence[Row]) -> str:
    """Bars of the speed ratios, with the 95 % interval as a line and the goal as a mark."""
    most = max(row["interval"][1] for row in rows)
    scale = (_WIDE - _LEFT - 60) / most
    height = _BAR * (len(rows) + 1)
    body = [_bar(row, _BAR * place, scale) for place, row in enumerate(rows)]
    one = _LEFT + scale
    body.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{height - _BAR}" stroke="#888" stroke-dasharray="3 3"/>')
    body.append(f'<text x="{one:.1f}" y="{height - 8}" text-anchor="middle" fill="#888">as fast</text>')
    style = 'font-family="sans-serif" font-size="12"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {height}" {style}>\n'
        f'<rect width="{_WIDE}" height="{height}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _bar(row: Row, top: int, scale: float) -> str:
    end = _LEFT + row["speed_ratio"] * scale
    low, high = (_LEFT + bound * scale for bound in row["interval"])
    middle = top + _BAR / 2
    parts = [
        f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(row["variant"])}</text>',
        f'<rect x="{_LEFT}" y="{top + 5}" width="{end - _LEFT:.1f}" height="{_BAR - 10}" fill="#4878a8"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>',
        f'<text x="{high + 6:.1f}" y="{middle + 4}">{row["speed_ratio"]:.2f} x</text>',
    ]
    if goal := GOALS.get(row["variant"]):
        at = _LEFT + goal * scale
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top + 2}" y2="{top + _BAR - 2}" stroke="#c33" stroke-width="2"/>')
    return "\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
