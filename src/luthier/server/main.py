"""`luthier`: the processes of the platform, and what an admin does on its data folder."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from luthier.errors import LuthierError, SetupError
from luthier.server.audit import app as audit_app
from luthier.server.billing import app as billing_app
from luthier.server.keys import app as keys_app
from luthier.server.options import AsJson, Data
from luthier.server.quotas import app as quotas_app
from luthier.server.teams import app as teams_app
from luthier.server.users import app as users_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bases_app = typer.Typer(no_args_is_help=True, help="Base models on this machine.")


def _note_console(context: typer.Context) -> None:
    # Named in full, `console.quotas.set`: the log says what was done, not only with which group of commands.
    if context.invoked_subcommand not in {None, "up", "supervise"}:
        from luthier.accounts.deeds import by_console

        words = (context.info_name if context.parent else None, context.invoked_subcommand)
        context.with_resource(by_console(".".join(word for word in words if word)))


app.add_typer(bases_app, name="bases", callback=_note_console)
app.add_typer(audit_app, name="audit", callback=_note_console)
app.add_typer(billing_app, name="billing", callback=_note_console)
app.add_typer(quotas_app, name="quotas", callback=_note_console)
app.add_typer(users_app, name="users", callback=_note_console)
app.add_typer(teams_app, name="teams", callback=_note_console)
app.add_typer(keys_app, name="keys", callback=_note_console)


@app.callback()
def _root(context: typer.Context) -> None:  # pyright: ignore[reportUnusedFunction]  # called by typer
    """Luthier: fine-tune language models on your own machines."""
    _note_console(context)


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data: Data = None,
    slots: Annotated[int | None, typer.Option(help="How many jobs to train at a time.")] = None,
) -> None:
    """Start the whole platform: API, supervisor, and an engine when a model is first asked."""
    from luthier.server.up import up as serve
    from luthier.settings import Settings

    serve(Settings.load(host=host, port=port, data=data, slots=slots))


@app.command()
def supervise(
    data: Data = None,
    slots: Annotated[int | None, typer.Option(help="How many jobs to train at a time.")] = None,
    server_pipe: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run one more supervisor on a data folder. Any number may; each trains what it claims."""
    from luthier.server.supervise import supervise as run
    from luthier.settings import Settings

    raise typer.Exit(run(Settings.load(data=data, slots=slots), server_pipe=server_pipe))


@app.command()
def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """Check the installation and the data folder, and say what to mend. Exit status 1 when something must be."""
    from luthier.server.doctor import examine
    from luthier.settings import Settings

    findings = examine(Settings.load(data=data))
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'MEND'}  {finding.what}: {finding.found}")
            if finding.mend:
                typer.echo(f"      {finding.mend}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command()
def reindex(data: Data = None, as_json: AsJson = False) -> None:
    """Rebuild the index of jobs and models from their directories, and the teams' metadata files from the index."""
    from luthier.server.first import first_start
    from luthier.server.locks import FolderLock
    from luthier.server.metadata_keeper import MetadataKeeper
    from luthier.settings import Settings
    from luthier.wiring import build

    settings = Settings.load(data=data)
    lock = FolderLock(settings.data, "server")
    if not lock.take():
        raise SetupError("A `luthier up` serves this data folder.", hint="Stop it, reindex, then start it again.")
    platform = build(settings)
    try:
        first_start(platform)
        counts = {"jobs": platform.jobs.reindex(), "models": platform.registry.reindex()}
        MetadataKeeper(platform).rebuild()
    finally:
        platform.close()
        lock.release()
    typer.echo(json.dumps(counts) if as_json else f"Brought back {counts['jobs']} jobs and {counts['models']} models.")


@bases_app.command("list")
def bases_list(data: Data = None, as_json: AsJson = False) -> None:
    """The allowed base models, and which are on this machine."""
    from luthier.bases.service import Bases
    from luthier.settings import Settings

    settings = Settings.load(data=data)
    bases = Bases(settings.data / "bases", settings.bases).list()
    if as_json:
        typer.echo(json.dumps([base.model_dump(mode="json") for base in bases]))
        return
    for base in bases:
        typer.echo(f"{base.id:42} {base.parameters / 1e6:9.1f} M   {'ready' if base.ready else 'not fetched yet'}")


@bases_app.command("fetch")
def bases_fetch(
    base: Annotated[str, typer.Argument(help="Id of an allowed base model, e.g. luthier/tiny.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a base model from the hub, or build luthier/tiny, so that the first job does not wait for it."""
    from luthier.server.fetching import fetch
    from luthier.settings import Settings

    folder = fetch(Settings.load(data=data), base, quiet=as_json)
    typer.echo(json.dumps({"base": base, "folder": str(folder)}) if as_json else f"{base} is ready.")


def main() -> None:
    """The command: an error is one line, never a traceback."""
    os.umask(0o077)  # whatever the shell's: what lies in the data folder is nobody else's
    try:
        app()
    except SetupError as error:
        typer.echo(str(error), err=True)
        sys.exit(78)
    except LuthierError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"Error: {error.strerror or error}{where}.", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  # the edge of the process: whoever typed this can do nothing with a traceback
        typer.echo(_unforeseen(error), err=True)
        sys.exit(1)


def _unforeseen(error: Exception) -> str:
    """One line of what nobody foresaw, with the place in our code that a report needs."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}luthier{os.sep}" in frame.filename]
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    words = " ".join(str(error).split())[:200]
    return f"Error: {type(error).__name__}{place}: {words} (`luthier doctor` says what must be mended.)"


if __name__ == "__main__":
    main()
