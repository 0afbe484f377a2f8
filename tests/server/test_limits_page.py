"""The commands of the page about quotas, run."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from luthier import wiring
from luthier.backends.engines.echo import EchoEngine
from luthier.server.main import app
from luthier.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/how-to/limit-a-team.md"


def test_the_commands_of_the_page_work(tmp_path):
    platform = wiring.build(Settings(data=tmp_path / "data"), engine=EchoEngine())
    team = platform.accounts.authenticate(platform.accounts.first_start()).tenant_id
    platform.close()
    commands = re.findall(r"^luthier (quotas .*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command.replace("TEAM", team).replace("DATA", str(tmp_path / "data"))))
        assert done.exit_code == 0, command
