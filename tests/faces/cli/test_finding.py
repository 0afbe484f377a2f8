"""The how-to about finding models: each command in it is run, in order, on one server."""

import re
from pathlib import Path

GUIDE = (Path(__file__).parents[3] / "docs" / "how-to" / "find-a-model.md").read_text("utf-8")


def test_every_command_of_the_guide_works(world, terminal):
    world.model(name="vet")
    world.model(name="clerk")
    blocks = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 7
    for line in lines:
        words = re.findall(r'"[^"]*"|\S+', line)
        done = terminal(*(word.strip('"') for word in words))
        assert done.code == 0, f"{line}: {done.err}"
    assert "embedding" not in done.out


def test_what_was_found_is_named_with_why(world, terminal):
    model = world.model(name="vet")
    world.model(name="clerk")
    assert model.id in terminal("model", "search", "vet", "--tags", " lora , sft ").out
    done = terminal("model", "recommend", "a vet", "--limit", "1")
    assert model.id in done.out
    assert "Compared by" in done.err


def test_a_blank_sentence_is_no_question(world, terminal):
    assert terminal("model", "recommend", " ").code == 2
    assert terminal("model", "search", "").code != 0
