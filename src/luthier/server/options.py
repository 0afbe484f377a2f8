"""Options that commands of `luthier` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path | None, typer.Option("--data", help="The data folder; made on the first start.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
