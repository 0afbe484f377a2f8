"""`tune`: start and watch training jobs, and see what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier.faces.cli import audit, drift, hooks, keys, logins, model, money, quotas, teams, watching, webhooks
from luthier.faces.cli.edge import connect, new_app, run
from luthier.faces.cli.options import After, AsJson, Follow, JobArgument, JobOption, Limit, Yes, sure, the_job, with_ids
from luthier.faces.cli.runs import RunFlags, described, takes_run
from luthier.faces.cli.shown import dollars, moment, out, out_json, plain, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Job

RunId = Annotated[str, typer.Argument(help="MLflow's id of the run, or the id of its job.")]

app = new_app("Start and watch training jobs.")


@app.command()
@takes_run
def start(
    run: RunFlags,
    follow: Follow = False,
    as_json: AsJson = False,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again starts nothing again.")] = None,
    yes: Yes = False,
) -> None:
    """Queue a training job and print its id."""
    asked = run.spec()
    with connect() as client:
        spec = with_ids(client, asked)
        estimate = client.jobs.estimate(spec)
        from luthier.faces.cli.reports import estimate_text

        talk(f"{described(spec)}\n{estimate_text(estimate)}")
        if estimate.fits and dollars(estimate.cost_usd) != "$0.00":
            sure(f"Start it for about {dollars(estimate.cost_usd)}?", yes=yes)
        submitted = client.jobs.submit(spec, idempotency_key=idempotency_key)
        if not as_json:
            out(submitted.job.id)
        if submitted.get("replayed"):
            talk("This key was used before: this is the job that it started then.")
        if not follow:
            talk(watching.taken_in(submitted.job))
            if as_json:
                out_json(submitted)
            return
        watching.tell_if_it_waits(submitted.job)
        job = watching.to_the_end(client, submitted.job.id)
        if as_json:
            out_json({**plain(submitted), "job": plain(job)})
    watching.leave(job)


@app.command()
@takes_run
def estimate(
    run: RunFlags,
    fit_test: Annotated[bool, typer.Option("--fit-test", help="Also measure memory and speed on the longest rows.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a run would take: memory, minutes, dollars. Trains nothing, and reserves nothing."""
    from luthier.faces.cli.reports import estimate_text, fit_text

    asked = run.spec()
    with connect() as client:
        spec = with_ids(client, asked)
        found = client.jobs.estimate(spec)
        if not as_json:
            out(estimate_text(found))
        measured = watching.measured(client, spec) if fit_test else None
    if as_json:
        out_json(found if measured is None else {**plain(found), "measured": measured})
    elif measured is not None:
        out(fit_text(measured))


@app.command("list")
def list_jobs(limit: Limit = 50, after: After = None, as_json: AsJson = False) -> None:
    """Your team's jobs, newest first."""
    with connect() as client:
        page = client.jobs.list(limit=limit, after=after)
    if as_json:
        out_json({"data": [job.raw for job in page], "next_cursor": page.next_cursor})
        return
    out(table(("ID", "NAME", "STATE", "STEP", "LOSS", "COST", "CREATED"), [_row(job) for job in page]))
    if page.next_cursor:
        talk(f"There are more: tune list --after {page.next_cursor}")


@app.command()
def status(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """One job as it stands now."""
    with connect() as client:
        _show(client.jobs.get(the_job(job, job_id)), as_json=as_json)


@app.command()
def pause(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """Save a checkpoint and rest, until it is resumed or cancelled."""
    with connect() as client:
        _told(client.jobs.pause(the_job(job, job_id)), "It saves, then rests. Go on later with: tune resume {}", as_json=as_json)


@app.command()
def stop(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """Save a checkpoint and end; `tune resume` goes on from there."""
    with connect() as client:
        found = client.jobs.stop(the_job(job, job_id))
        if found.state == "stopped":
            _shown(found, f"Go on later with: tune resume {found.id}", as_json=as_json)
            return
        _told(found, "It saves, then stops. Go on later with: tune resume {}", as_json=as_json)


@app.command()
def cancel(job: JobArgument = None, job_id: JobOption = None, as_json: AsJson = False) -> None:
    """End a job for good, without saving."""
    with connect() as client:
        found = client.jobs.cancel(the_job(job, job_id))
        if found.state == "cancelled":
            _shown(found, "It has ended for good.", as_json=as_json)
            return
        _told(found, "It ends without saving.", as_json=as_json)


@app.command()
def resume(job: JobArgument = None, job_id: JobOption = None, follow: Follow = False, as_json: AsJson = False) -> None:
    """Queue a paused, stopped or failed job again; it goes on from its last checkpoint."""
    with connect() as client:
        found = client.jobs.resume(the_job(job, job_id))
        if not follow:
            _told(found, "Queued again. Watch it with: tune logs {} --follow", as_json=as_json)
            return
        ended = watching.to_the_end(client, found.id)
        if as_json:
            out_json(ended)
    watching.leave(ended)


@app.command()
def delete(job: JobArgument = None, job_id: JobOption = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a finished job and its files; what it cost stays in the ledger."""
    found = the_job(job, job_id)
    sure("Delete the job and its files?", yes=yes)
    with connect() as client:
        client.jobs.delete(found)
    if as_json:
        out_json({"id": found, "deleted": True})
    talk("Deleted.")


watching.add_to(app)
money.add_to(app)
audit.add_to(app)
quotas.add_to(app)
drift.add_to(app)
hooks.add_to(app)
webhooks.add_to(app)
logins.add_to(app)
keys.add_to(app)
teams.add_to(app)
app.add_typer(model.app, name="model", help="The same as the command `model`.")


@app.command()
def experiment(run_id: RunId, as_json: AsJson = False) -> None:
    """What MLflow is told of a run: its parameters, its last metrics, and whether they arrived."""
    with connect() as client:
        found = client.experiments.run(run_id)
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.shown import pairs

    arrived = found.run_id or "not in MLflow yet"
    facts = [("job", found.job_id), ("run", arrived), ("status", found.status), ("model", found.get("model"))]
    out(pairs([*facts, ("error", found.get("error")), *plain(found.params).items(), *plain(found.metrics).items()]))


@app.command()
def bases(as_json: AsJson = False) -> None:
    """The base models that may be tuned here."""
    with connect() as client:
        found = list(client.bases.list())
    if as_json:
        out_json({"data": [base.raw for base in found]})
        return
    rows = [
        (
            base.id,
            f"{base.parameters / 1e6:,.0f} M",
            f"{base.context:,}",
            base.license,
            "yes" if base.ready else "once it is used",
        )
        for base in found
    ]
    out(table(("ID", "PARAMETERS", "CONTEXT", "LICENSE", "ON THE SERVER"), rows))


@app.command()
def health(as_json: AsJson = False) -> None:
    """How the server is. Exit status 1 when a part of it is missing."""
    # The one route that asks nobody who they are, so no key is looked for.
    with connect(api_key="none") as client:
        found = client.health()
    if as_json:
        out_json(found)
    else:
        from luthier.faces.cli.shown import pairs

        out(pairs(found.items()))
    raise typer.Exit(0 if found.get("status") == "ok" else 1)


def _row(job: Job) -> tuple[object, ...]:
    step = f"{job.step}/{job.total_steps}" if job.get("total_steps") else job.get("step") or None
    loss = job.get("loss")
    return (
        job.id,
        job.get("name"),
        job.state,
        step,
        None if loss is None else f"{loss:.4f}",
        dollars(job.cost_usd),
        moment(job.created_at),
    )


def _show(job: Job, *, as_json: bool) -> None:
    if as_json:
        out_json(job)
        return
    from luthier.faces.cli.reports import job_text

    out(job_text(job))


def _told(job: Job, what: str, *, as_json: bool) -> None:
    _shown(job, f"The job has ended already: {job.state}." if job.finished else what.format(job.id), as_json=as_json)


def _shown(job: Job, what: str, *, as_json: bool) -> None:
    if as_json:
        out_json(job)
    else:
        out(f"{job.id}  {job.state}")
    talk(what)


def main() -> None:
    """The command."""
    run(app)


if __name__ == "__main__":
    main()
