"""`dataset validate` and `fix` without a server; `diff` and `samples` with one."""

import json

import pytest


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.jsonl"
    good = [json.dumps({"prompt": f"{n} + 1 =", "completion": f" {n + 1}"}) for n in range(12)]
    path.write_text("\n".join([*good, good[0], '{"prompt": 1}', ""]))
    return path


def test_a_file_is_validated_without_a_server(terminal, bad, rows):
    assert terminal("dataset", "validate", str(rows)).code == 0
    ended = terminal("dataset", "validate", str(bad))
    assert (ended.code, "line 14: " in ended.out, "line 13: " in ended.out) == (1, True, True)
    told = terminal("dataset", "validate", str(bad), "--json").json
    assert told["counts"] == {"missing_field": 1, "duplicate": 1}
    assert terminal("dataset", "validate", str(bad.parent / "none.jsonl")).code == 2


def test_a_file_is_held_against_another_without_a_server(terminal, bad, rows):
    told = terminal("dataset", "validate", str(rows), "--against", str(rows), "--against", str(bad), "--json").json
    assert [(each["name"], each["rows"]) for each in told["against"]] == [(rows.name, 12), (bad.name, 0)]


def test_the_good_rows_of_a_file_are_written_beside_it(terminal, bad, tmp_path):
    clean = tmp_path / "clean.jsonl"
    ended = terminal("dataset", "fix", str(bad), "-o", str(clean))
    assert (ended.code, ended.out.strip()) == (0, str(clean))
    assert "Left out: 2 rows" in ended.err
    assert len(clean.read_text().splitlines()) == 12
    assert terminal("dataset", "fix", str(bad), "-o", str(clean)).code == 2
    told = terminal("dataset", "fix", str(bad), "-o", str(clean), "--force", "--json").json
    assert (told["rows"], told["counts"]) == (12, {"missing_field": 1, "duplicate": 1})
    (tmp_path / "worse.jsonl").write_text("null\n")
    assert terminal("dataset", "fix", str(tmp_path / "worse.jsonl"), "-o", str(tmp_path / "left.jsonl")).code == 1
    assert not (tmp_path / "left.jsonl").exists()


def test_versions_are_named_and_compared_and_rows_are_shown(world, terminal, bad, tmp_path):
    made = terminal("dataset", "upload", str(bad), "--name", "sums", "--drop-bad-rows").out.strip()
    fixed = terminal("dataset", "fix", made)
    assert fixed.out.startswith("ds_")
    assert "1 duplicate" in fixed.err
    assert "same     12 rows" in terminal("dataset", "diff", "sums@1", "sums").out
    assert terminal("dataset", "diff", "sums@1", "sums@2", "--json").json["dropped"]["rows"] == 1
    assert terminal("dataset", "diff", "sums@9", "sums@2").code == 4
    shown = terminal("dataset", "samples", made, "--by", "flagged")
    assert "duplicate: The row is the same as line 1." in shown.out
    assert len(terminal("dataset", "samples", made, "-n", "3", "--json").json["data"]) == 3
    assert "row tokens" in terminal("dataset", "show", made).out
    against = terminal("dataset", "upload", str(bad), "--name", "val", "--drop-bad-rows", "--against", "sums@2")
    assert "in sums@2" in against.err


def test_fields_are_mapped_here_and_on_a_server(world, terminal, tmp_path):
    path = tmp_path / "questions.csv"
    path.write_text("Question,Answer\n" + "".join(f"{n} + 1?,{n + 1}\n" for n in range(12)))
    flag = ["--map", "prompt=Question,completion=Answer"]
    refused = terminal("dataset", "validate", str(path))
    assert (refused.code, " ".join(flag) in refused.out) == (1, True)
    assert terminal("dataset", "validate", str(path), *flag, "--json").json["schema_name"] == "prompt_completion"
    made = terminal("dataset", "upload", str(path), *flag, "--json").json
    assert (made["rows"], made["report"]["mapping"]) == (12, {"prompt": "Question", "completion": "Answer"})
    assert terminal("dataset", "fix", str(path), "-o", str(tmp_path / "clean.jsonl"), *flag).code == 0
    assert json.loads((tmp_path / "clean.jsonl").read_text().splitlines()[0]) == {"prompt": "0 + 1?", "completion": "1"}
    for wrong in ("prompt", "prompt=a,prompt=b"):
        assert terminal("dataset", "validate", str(path), "--map", wrong).code == 2
    assert terminal("dataset", "upload", str(path), "--map", "prompt").code == 1


def test_only_the_hub_and_https_addresses_are_imported(world, terminal):
    for source in ("file:///etc/passwd", "s3://other-bucket/rows.jsonl", "https://127.0.0.1/rows.jsonl"):
        ended = terminal("dataset", "import", source)
        assert (ended.code, "cannot be imported" in ended.err) == (1, True)
