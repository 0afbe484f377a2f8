"""What will be learned, in the terminal: of a file without a server, with marks in a pipe and colours on a terminal."""

import json

import pytest

from luthier.faces.cli.previews import preview_text

CHATS = [
    {"messages": [{"role": "user", "content": f"Where is {number}?"}, {"role": "assistant", "content": "On its way."}]}
    for number in range(12)
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    return str(path)


def test_a_file_is_previewed_without_a_server(terminal, file):
    ended = terminal("dataset", "preview", file, "--rows", "1", "--line", "3")
    assert ended.code == 0
    assert "line 3: " in ended.out
    assert "Where is 2?<|im_end|>\n<|im_start|>assistant\n{+On its way.<|im_end|>+}" in ended.out
    assert "\x1b" not in ended.out
    cut = terminal("dataset", "preview", file, "--rows", "1", "--max-seq-len", "10")
    assert "LEFT OUT: No token within the first 10 carries loss." in cut.out
    assert "[-" in cut.out
    listed = terminal("dataset", "preview", file, "--rows", "1", "--tokens")
    assert '{+"<|im_end|>"+}' in listed.out


def test_fields_of_a_file_are_mapped_for_a_preview(terminal, tmp_path):
    path = tmp_path / "questions.csv"
    path.write_text("Question,Answer\n" + "".join(f"{n} + 1 =,{n + 1}\n" for n in range(12)))
    ended = terminal("dataset", "preview", str(path), "--map", "prompt=Question,completion=Answer", "--rows", "1")
    assert (ended.code, "0 + 1 ={+1" in ended.out) == (0, True)
    assert terminal("dataset", "preview", str(path)).code == 1
    assert terminal("dataset", "preview", str(path), "--map", "prompt").code == 2
    stored = terminal("dataset", "preview", "ds_01kagz3vqdfyxtqn4w5b9zn8r2", "--map", "prompt=a,completion=b")
    assert (stored.code, "stored mapped" in stored.err) == (2, True)


def test_json_has_every_token_and_colours_are_for_terminals(terminal, file):
    found = terminal("dataset", "preview", file, "--json").json
    tokens = found["data"][0]["parts"][0]["tokens"]
    assert "".join(token["text"] for token in tokens if token["loss"]) == "On its way.<|im_end|>"
    shown = preview_text(found, coloured=True)
    assert "\x1b[1;32mOn its way.<|im_end|>\x1b[0m" in shown
    assert "{+" not in shown


def test_a_text_cannot_steer_the_terminal(terminal, tmp_path):
    row = {"messages": [{"role": "user", "content": "a\x1b[31mb"}, {"role": "assistant", "content": "c\x1b]52;c;x\x07d"}]}
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    found = terminal("dataset", "preview", str(path), "--json").json
    assert "\x1b[31m" not in preview_text(found, coloured=True)
    assert "\x1b" not in preview_text(found, coloured=False, tokens=True)


def test_what_cannot_be_shown_says_why(terminal, file, tmp_path):
    wrong = terminal("dataset", "preview", file, "--method", "dpo")
    assert (wrong.code, "Ask for sft." in wrong.err) == (1, True)
    assert terminal("dataset", "preview", file, "--base-model", "some/base").code == 2
    assert terminal("dataset", "preview", str(tmp_path / "missing")).code == 2
    (tmp_path / "broken").write_text('{"messages": []}\n')
    assert terminal("dataset", "preview", str(tmp_path / "broken")).code == 1
