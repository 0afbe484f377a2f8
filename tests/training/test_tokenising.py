"""A data file that is shared with a crew becomes the same numbers as one that one process reads, whatever happens to the crew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.datasets.conftest import TINY
from tests.training.test_previews import CHATS, LONG, PAIRS, PROMPTS, RATED, TEXTS

from luthier.datasets.examples import BadRow
from luthier.datasets.formats import read_rows
from luthier.datasets.learning import TRAINS_ON, lessons, positions
from luthier.datasets.rendering import Renderer
from luthier.errors import Invalid
from luthier.training.parts import Reading
from luthier.training.token_cache import Kept
from luthier.training.token_crew import TokenCrew, hired
from luthier.training.tokenising import rows_of, shared_tokens, tokens_of_file

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Łódź"}'}}
TOOLS = [
    {
        "messages": [
            {"role": "user", "content": "Will it rain?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "no"},
            {"role": "assistant", "content": "No <|im_end|>, it will not."},
        ],
        "tools": [WEATHER],
    }
]
LABELLED = [{"text": "good morning", "label": "hello"}, {"text": LONG, "label": "question"}]
CASES = {
    "chats": ("sft", [*CHATS, *TOOLS, {"text": "All of this is learned."}, *TEXTS]),
    "pairs": ("dpo", PAIRS),
    "odds": ("orpo", PAIRS),
    "rated": ("kto", RATED),
    "prompts": ("grpo", PROMPTS),
    "labelled": ("classifier", LABELLED),
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.load(TINY)


def a_file(folder: Path, rows: list[object], times: int = 1) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for _ in range(times) for row in rows))
    return path


def reading(path: Path, method: str = "sft", most: int = 40, **more) -> Reading:
    return Reading(path, method, most, TINY, **{"helpers": 2, "least_bytes": 0, "block_bytes": 3000, **more})


def numbers(kept: Kept) -> list[object]:
    return [*(column.part(0, len(column)).tobytes() for column in kept.rows.columns), dict(kept.rows.counts), kept.beside]


def shared(how: Reading, renderer: Renderer, on_part: Callable[[TokenCrew, int], None] = lambda *_: None) -> Kept:
    """The file, by a crew that is there from the second block on. on_part: before each block."""
    seen: list[float] = []
    with hired(how, renderer) as crew:
        assert crew is not None
        assert crew.came(60)

        def on_block(done: float) -> None:
            on_part(crew, len(seen))
            seen.append(done)

        kept = shared_tokens(how, renderer, on_block, crew)
    assert seen == sorted(seen)
    assert len(seen) > 6
    return kept


@pytest.mark.parametrize("case", CASES)
def test_a_crew_makes_the_numbers_of_one_process(tmp_path, renderer, case):
    method, rows = CASES[case]
    path = a_file(tmp_path, rows, 60)
    done: list[int] = []
    found = shared(reading(path, method), renderer, lambda crew, _: done.append(crew.works))
    assert all(done)
    with path.open("rb") as stream:
        units = list(read_rows(stream, TRAINS_ON[method]))
    assert numbers(found) == numbers(rows_of(method, units, renderer, 40))
    one_by_one = [each for unit in units for each in lessons(method, [unit], renderer, 40) if each.why_left_out is None]
    alone = [(part.ids, positions(part.loss), part.weight) for each in one_by_one for part in each.parts]
    held = map(found.rows.__getitem__, range(len(found.rows)))
    assert [(list(row.ids), list(row.loss_at), row.weight) for row in held] == alone


def test_small_files_and_bases_without_a_folder_have_no_crew(tmp_path, renderer):
    path = a_file(tmp_path, [CHAT], 10)
    for how in (replace(reading(path), base=None), replace(reading(path), helpers=1), replace(reading(path), least_bytes=10**6)):
        with hired(how, renderer) as crew:
            assert crew is None
        assert len(tokens_of_file(how, renderer, lambda _: None).rows) == 10


def test_where_no_process_can_be_started_one_does_all(tmp_path, renderer, monkeypatch):
    path = a_file(tmp_path, [CHAT], 10)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    assert len(tokens_of_file(reading(path), renderer, lambda _: None).rows) == 10


@pytest.mark.parametrize("whom", ["first", "fork"])
def test_a_crew_that_dies_is_done_without(tmp_path, renderer, whom):
    path = a_file(tmp_path, [*CHATS, *TOOLS], 60)
    lost: list[bool] = []

    def kill(crew: TokenCrew, block: int) -> None:
        if block == 4:
            process = psutil.Process(crew.pid)
            victim = process if whom == "first" else process.children()[0]
            os.kill(victim.pid, signal.SIGKILL)
        lost.append(not crew.works)

    found = shared(reading(path), renderer, kill)
    assert lost[-1]
    assert numbers(found) == numbers(tokens_of_file(replace(reading(path), helpers=0), renderer, lambda _: None))


def test_a_crew_that_hangs_is_not_waited_for(tmp_path, renderer):
    path = a_file(tmp_path, CHATS, 60)
    idle = "import sys; print('!', end='', flush=True); sys.stdin.buffer.read()"
    crew = TokenCrew([sys.executable, "-c", idle], b"", patience_s=0.05)
    assert crew.came(60)
    found = shared_tokens(reading(path), renderer, lambda _: None, crew)
    crew.close()
    assert not crew.works
    assert numbers(found) == numbers(tokens_of_file(replace(reading(path), helpers=0), renderer, lambda _: None))


def test_a_block_of_which_more_comes_than_has_room_is_done_here(tmp_path, renderer):
    texts = [{"text": f"{sign} " * 150_000} for sign in "一二"]  # each byte a token
    path = a_file(tmp_path, [*[CHAT] * 400, *texts, *[CHAT] * 400])
    ended: list[bool] = []
    how = reading(path, most=10**6)
    found = shared(how, renderer, lambda crew, _: ended.append(not crew.works))
    assert not any(ended)
    assert found.rows.longest > 525_000
    assert numbers(found) == numbers(tokens_of_file(replace(how, helpers=0), renderer, lambda _: None))


@pytest.mark.parametrize("at", [3, 700])
def test_a_bad_row_is_told_with_its_line(tmp_path, renderer, at):
    path = a_file(tmp_path, [*[CHAT] * at, {"messages": 7}, *[CHAT] * 300])
    with pytest.raises(BadRow) as told:
        shared(reading(path), renderer)
    assert told.value.line == at + 1


def test_a_conversation_that_the_template_refuses_is_told(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in TINY.iterdir():
        if file.is_file():
            (base / file.name).write_bytes(file.read_bytes())
    picky = "{% if messages[0].content == 'No' %}{{ raise_exception('no such word') }}{% endif %}"
    (base / "chat_template.jinja").write_text(picky + (TINY / "chat_template.jinja").read_text())
    refused = {"messages": [{"role": "user", "content": "No"}, CHAT["messages"][1]]}
    path = a_file(tmp_path, [*[CHAT] * 700, refused, *[CHAT] * 300])
    with pytest.raises(Invalid, match="no such word"):
        shared(replace(reading(path), base=base), Renderer.load(base))


def test_a_base_that_changed_under_way_is_not_used(tmp_path, renderer):
    path = a_file(tmp_path, [CHAT], 700)
    other = Renderer.load(TINY)
    other.fingerprint = "another"
    with hired(reading(path), other) as crew:
        assert crew is not None
        assert crew.came(60)
        found = shared_tokens(reading(path), renderer, lambda _: None, crew)
        assert not crew.works
    assert len(found.rows) == 700


def test_a_json_array_is_read_by_one(tmp_path, renderer):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([CHAT] * 700))
    assert len(tokens_of_file(reading(path), renderer, lambda _: None).rows) == 700


def test_whoever_stops_leaves_no_process_behind(tmp_path, renderer):
    path = a_file(tmp_path, [CHAT], 3000)
    pids: list[int] = []

    def stop(crew: TokenCrew, block: int) -> None:
        if block == 5:
            pids.extend([crew.pid, *(child.pid for child in psutil.Process(crew.pid).children())])
            raise InterruptedError

    with pytest.raises(InterruptedError):
        shared(reading(path), renderer, stop)
    assert len(pids) == 3
    assert not any(map(psutil.pid_exists, pids))


def test_those_who_help_have_no_torch():
    code = "import sys, luthier.training.token_crew; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
