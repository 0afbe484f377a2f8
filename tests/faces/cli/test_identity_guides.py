"""The how-tos about people and keys: each command in them is run, in order, on one server."""

import contextvars
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from luthier import Client
from luthier.server import main

GUIDES = Path(__file__).parents[3] / "docs" / "how-to"
PASSWORD = "correct horse battery"


def commands(guide):
    blocks = re.findall(r"^```bash\n(.*?)^```", (GUIDES / guide).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


class Reader:
    """Somebody who types what a guide says, and puts in the ids that were printed last."""

    def __init__(self, world, terminal):
        self.world, self.terminal = world, terminal
        self.seen = {}

    def run(self, line):
        typed = shlex.split(line, comments=True)
        command, *arguments = [re.sub(r"^([a-z]+)_\.\.\.$", lambda match: self.seen[match[1]], word) for word in typed]
        if command == "luthier":
            self.note(self.console(*arguments, "--data", str(self.world.platform.settings.data)))
        else:
            done = self.terminal(command, *arguments, typed=f"{PASSWORD}\n".encode())
            assert done.code == 0, f"{line}: {done.err}"
            self.note(done.out)

    def console(self, *arguments):
        done = contextvars.copy_context().run(CliRunner().invoke, main.app, arguments)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    def note(self, text):
        """The last id of each kind; the first team, which is the one that the guide makes; a token before its own id."""
        for word in text.split():
            if match := re.match(r"(team|user|key|inv)_[0-9a-z]{26}", word):
                before = self.seen.get(match[1], "")
                self.seen[match[1]] = before if before.startswith(word) or (before and match[1] == "team") else word


def test_invite_a_team(world, terminal, monkeypatch):
    monkeypatch.delenv("LUTHIER_API_KEY")
    reader, accounts = Reader(world, terminal), world.platform.accounts
    for line in commands("invite-a-team.md"):
        if line.startswith("tune login"):
            accounts.users.set_password("ada@example.org", PASSWORD)  # what was generated is not known here
        reader.run(line)
        if line.startswith("tune team remove"):
            ada = accounts.users.acting("ada@example.org", team=reader.seen["team"])
            assert [member.email for member in accounts.teams.members(ada)] == ["ada@example.org"]
    accounts.users.set_password("ada@example.org", PASSWORD)
    (example,) = re.findall(r"```python\n(.*?)```", (GUIDES / "invite-a-team.md").read_text("utf-8"), re.DOTALL)
    with Client() as client:
        made = {"password": PASSWORD, "client": client}
        exec(example, made)
    assert made["token"].startswith("inv_")


def test_rotate_a_key(world, terminal):
    reader = Reader(world, terminal)
    for line in commands("rotate-a-key.md"):
        if line.startswith("tune keys revoke"):
            reader.seen["key"] = reader.world.platform.accounts.keys.every()[-1].id
        reader.run(line)
        if line == "luthier keys list":
            reader.seen["key"] = world.actor.key_id


@pytest.mark.parametrize("guide", ["invite-a-team.md", "rotate-a-key.md"])
def test_no_command_of_a_guide_was_overlooked(guide):
    assert len(commands(guide)) > 6
    assert {line.split()[0] for line in commands(guide)} == {"luthier", "tune"}
