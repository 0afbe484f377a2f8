"""The commands as processes: pipes that close, Ctrl-C, narrow terminals, poor locales, no home."""

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from luthier.faces.cli.shown import clean, dollars, duration, each_written, size, table

from ..sdk.conftest import Reply, as_json, sse
from .conftest import DATASET, JOB
from .test_following import ESTIMATE, event, job


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", f"luthier.faces.cli.{name}", *arguments]


def environment(fake, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LUTHIER_API_URL": fake.url, "LUTHIER_API_KEY": "lk_x", **more}


@contextlib.contextmanager
def hearing_ctrl_c():
    """A shell starts what it puts in the background deaf to Ctrl-C, with all that this starts; a test run may stand there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def many_jobs(fake) -> None:
    jobs = [job(id=f"job_{number:026d}", name="Größe", step=0, total_steps=None) for number in range(2000)]
    fake.say("GET /api/jobs", as_json({"data": jobs, "next_cursor": None}))


def test_l08_a_reader_who_has_enough_ends_the_command_quietly_with_0(fake):
    many_jobs(fake)
    with subprocess.Popen(
        command("tune", "list"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(fake)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"ID")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_ctrl_c_while_following_leaves_the_job_running_and_says_so(fake):
    fake.say("POST /api/jobs/estimate", as_json(ESTIMATE))
    fake.say("POST /api/jobs", as_json({"job": job("queued"), "estimate": ESTIMATE}, 201))
    # The stream breaks off again and again, and never says that the job has ended.
    fake.say(f"GET /api/jobs/{JOB}/events", sse(("1-0", "state", event(0, "state", message="Attempt 1 starts.")), cut=1))
    line = command("tune", "start", "--model", "m", "--dataset", DATASET, "--follow")
    with (
        hearing_ctrl_c(),
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(fake)) as process,
    ):
        assert process.stderr is not None
        said = b""
        while b"Attempt 1 starts." not in said:
            more = process.stderr.readline()
            assert more, said
            said += more
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
        assert process.wait(30) == 130
    assert b"the job goes on" in said
    assert b"Traceback" not in said
    assert {asked.method for asked in fake.asked if asked.path.startswith(f"/api/jobs/{JOB}")} == {"GET"}


@pytest.mark.parametrize(
    "locale", [{"LANG": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_l10_a_poor_locale_and_no_home_are_enough(fake, locale, tmp_path):
    many_jobs(fake)
    done = subprocess.run(
        command("tune", "list"), capture_output=True, env=environment(fake, **locale), cwd=tmp_path, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 2001


def on_a_terminal(line: list[str], env: dict[str, str], columns: int) -> tuple[int, str]:
    """Run on a pseudo-terminal of this width; stdout, stderr and stdin are all the terminal."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(line, stdin=inner, stdout=inner, stderr=inner, env={**env, "TERM": "xterm"})
    os.close(inner)
    said = b""
    while True:
        try:
            chunk = os.read(outer, 65536)
        except OSError:  # Linux's way to say that nobody has the other end any more
            break
        if not chunk:
            break
        said += chunk
    os.close(outer)
    return process.wait(60), said.decode()


def test_l10_twenty_columns_get_a_block_for_each_row(fake):
    fake.say("GET /api/jobs", as_json({"data": [job(name="support", step=0)], "next_cursor": None}))
    code, said = on_a_terminal(command("tune", "list"), environment(fake), 20)
    assert code == 0
    assert f"ID       {JOB}" in said
    assert "NAME     support" in said


@pytest.mark.parametrize("columns", [20, 80])
def test_following_draws_on_a_terminal_and_leaves_its_result(fake, columns):
    told = [event(0, "warning", message="Look out."), event(1, "step", step=20, loss=1.0, tokens_per_second=99.0)]
    fake.say(f"GET /api/jobs/{JOB}/events", sse(*[(each["id"], each["kind"], each) for each in told], (None, "end", job())))
    fake.say(f"GET /api/jobs/{JOB}", as_json(job()))
    fake.say(f"POST /api/jobs/{JOB}/resume", as_json(job("queued")))
    code, said = on_a_terminal(command("tune", "resume", JOB, "--follow"), environment(fake), columns)
    assert code == 0
    assert "Look out." in said
    assert "succeeded." in said
    assert columns == 20 or "step 20/40  loss 1.000  99 tok/s" in said


def test_somebody_at_a_terminal_is_asked_before_money_is_spent_or_files_are_replaced(fake, tmp_path):
    fake.say("POST /api/jobs/estimate", as_json(ESTIMATE))
    outer, inner = pty.openpty()
    line = command("tune", "start", "--model", "m", "--dataset", DATASET)
    with subprocess.Popen(line, stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(fake)) as process:
        os.write(outer, b"n\n")
        out, err = process.communicate(timeout=30)
    os.close(outer)
    os.close(inner)
    assert (process.returncode, out) == (1, b"")
    assert b"Start it for about $0.0375?" in err
    assert [asked.path for asked in fake.asked] == ["/api/jobs/estimate"]


def test_columns_are_aligned_and_control_characters_have_no_width():
    assert table(("A", "B"), [("x\x1b[1m", None), ("long", "y\nz")]) == "A     B\nx     -\nlong  y z"


def test_cleaning_leaves_no_character_that_a_terminal_obeys():
    every = "".join(chr(number) for number in range(0x300)) + "\u202e\u2066"
    assert all(character in "\n\t" or character.isprintable() or character == "\xad" for character in clean(every))
    assert clean("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x07b") == "alinkb"
    assert clean("a\x1b]52;unended\nb") == "a\nb"


def test_pieces_of_an_answer_cannot_make_a_sequence_together():
    written: list[str] = []
    assert each_written(written.append, ["a\x1b", "[31m", "\x9b", "b"]) == "a[31mb"
    assert written == ["a", "[31m", "", "b"]


def test_quantities_read_well():
    assert [duration(each) for each in (None, 0.4, 59.6, 3600)] == ["?", "0 s", "1 min 0 s", "1 h 0 min"]
    assert [size(each) for each in (None, 0, 1024, 10**15)] == ["?", "0 B", "1.0 KiB", "909.5 TiB"]
    assert [dollars(each) for each in ("0", "12.5", "-0.000001")] == ["$0.00", "$12.50", "-$0.000001"]


def test_a_file_that_is_there_is_replaced_only_after_a_yes(fake, tmp_path):
    rows = b"{}\n"
    facts = {"id": DATASET, "bytes": 3, "sha256": hashlib.sha256(rows).hexdigest()}
    fake.say(f"GET /api/datasets/{DATASET}", as_json(facts))
    fake.say(f"GET /api/datasets/{DATASET}/download", Reply(200, rows))
    path = tmp_path / "rows.jsonl"
    for typed, content in ((b"n\n", "mine"), (b"y\n", "{}\n")):
        path.write_text("mine")
        outer, inner = pty.openpty()
        os.write(outer, typed)
        line = command("dataset", "download", DATASET, "-o", str(path))
        done = subprocess.run(line, stdin=inner, capture_output=True, env=environment(fake), timeout=60, check=False)
        os.close(outer)
        os.close(inner)
        assert (done.returncode, path.read_text()) == (1 if content == "mine" else 0, content)
        assert b"Replace it?" in done.stderr


TRANSFER = """
import time
from luthier.faces.cli.saving import transfer
with transfer({!r}) as report:
    for part in range(8):
        report("adapter_model.safetensors", part * 10**9, 10**10)
        time.sleep(0.1)  # a rate needs time
"""


@pytest.mark.parametrize(
    ("columns", "shown"), [(20, r"\d% +\S+:"), (40, r"\d% \S+ GiB of 9\.3 GiB"), (80, r"━ .* GiB of 9\.3 GiB \S+ GB/s")]
)
@pytest.mark.parametrize("what", ["download", "a-file-of-rows-with-a-rather-long-name.jsonl"])
def test_a_transfer_is_one_line_of_any_terminal(fake, what, columns, shown):
    code, said = on_a_terminal([sys.executable, "-c", TRANSFER.format(what)], environment(fake), columns)
    assert code == 0
    assert re.search(shown, re.sub(r"\x1b\[[\d;]*m", "", said))
    assert said.count("\x1b[1A") <= 1  # a second line would have to be taken back each time
