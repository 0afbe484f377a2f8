"""What those who run the server do with money at the data folder."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.server.options import AsJson, Data

app = typer.Typer(no_args_is_help=True, help="Give money back.")


@app.callback()
def _root() -> None:  # pyright: ignore[reportUnusedFunction]  # keeps `refund` a command of its own
    """Money of all teams."""


@app.command()
def refund(  # noqa: PLR0913, PLR0917  # flags of a command
    job: Annotated[str, typer.Argument(help="Id of the job.")],
    usd: Annotated[str, typer.Option(help="Dollars to give back, e.g. 1.50.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the ledger.")],
    key: Annotated[str | None, typer.Option(help="The same key again gives nothing back again.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give back a part of what a job was charged, or all of it: a line of the ledger below 0."""
    from luthier import ids
    from luthier.billing.types import Reason, Refund
    from luthier.server.folder import checked, platform_of
    from luthier.values import Usd, micro_usd

    amount, why = micro_usd(checked(Usd, usd, "usd")), checked(Reason, reason, "reason")
    with platform_of(data) as platform:
        charge = platform.billing.refund(Refund(job, amount, why, key or ids.new(ids.REQUEST)))
    typer.echo(charge.model_dump_json() if as_json else f"{charge.job_id}: {charge.amount_usd} dollars in {charge.period}.")
