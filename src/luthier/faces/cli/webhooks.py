"""`tune webhooks`: who is told what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier import ids
from luthier.faces.cli.edge import connect, new_app, usage
from luthier.faces.cli.options import After, AsJson, Limit, Yes, sure
from luthier.faces.cli.shown import moment, out, out_json, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Delivery

app = new_app("Webhooks, Slack and e-mail: who is told what happens.")

Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id.", show_default=False)]
Kinds = Annotated[list[str] | None, typer.Option("--kind", help="What it is told: job.failed, job.*, budget.alert. Repeat it.")]


def add_to(tune: typer.Typer) -> None:
    """Make the verbs of this file commands of `tune webhooks`."""
    tune.add_typer(app, name="webhooks")


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="An https address; with --channel email a mailbox.")],
    channel: Annotated[str, typer.Option(help="webhook, slack or email.")] = "webhook",
    kind: Kinds = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell an address of the team's events, and print its id and the secret that signs them."""
    with connect() as client:
        made = client.webhooks.add(url, channel=channel, kinds=kind, description=description)
    if as_json:
        out_json(made)
        return
    out(made.id)
    if made.get("secret"):
        out(str(made.secret))
        talk("The second line is its secret: it is shown this once, and checks the signature of what arrives.")
    talk(f"Try it: tune webhooks test {made.id}")


@app.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """All endpoints of your team."""
    with connect() as client:
        found = client.webhooks.list()
    if as_json:
        out_json({"data": [each.raw for each in found]})
        return
    rows = [(each.id, each.channel, each.url, " ".join(each.kinds), _is_on(each.enabled, each.disabled_reason)) for each in found]
    out(table(("ID", "CHANNEL", "ADDRESS", "TOLD", "ON"), rows))


@app.command()
def change(
    webhook: Webhook,
    kind: Kinds = None,
    on: Annotated[bool | None, typer.Option("--on/--off", help="Whether it is told anything.")] = None,
    as_json: AsJson = False,
) -> None:
    """Other events, on or off."""
    if kind is None and on is None:
        raise usage("Change what? Name --kind, --on or --off.")
    with connect() as client:
        changed = client.webhooks.change(_an_id(webhook), kinds=kind, enabled=on)
    out_json(changed) if as_json else talk(f"It is {_is_on(changed.enabled, None)}, and told of: {' '.join(changed.kinds)}.")


@app.command()
def remove(webhook: Webhook, yes: Yes = False) -> None:
    """Tell it nothing more."""
    sure("Remove this endpoint, and what is known of its deliveries?", yes=yes)
    with connect() as client:
        client.webhooks.remove(_an_id(webhook))


@app.command("test")
def send_test(webhook: Webhook, as_json: AsJson = False) -> None:
    """Send it one event, and say what became of it. Exit status 1 where it was not taken."""
    with connect() as client:
        delivery = client.webhooks.test(_an_id(webhook))
    if as_json:
        out_json(delivery)
    elif delivery.state == "delivered":
        out(f"It took {delivery.event_id} with status {delivery.last_status}.")
    elif delivery.attempts:
        talk(f"It did not take {delivery.event_id}: {_answer(delivery)}.")
    else:
        talk("Nothing was sent yet: `luthier up` (or `luthier supervise`) sends. `tune webhooks deliveries` shows it later.")
    if delivery.state != "delivered":
        raise typer.Exit(1)


@app.command()
def rotate(webhook: Webhook, yes: Yes = False, as_json: AsJson = False) -> None:
    """Replace the secret of a webhook, and print the new one. The one before signs beside it for 24 hours."""
    sure("Replace the secret that signs what this endpoint is told?", yes=yes)
    with connect() as client:
        made = client.webhooks.rotate(_an_id(webhook))
    if as_json:
        out_json(made)
        return
    out(str(made.secret))
    talk("It is shown this once. Until tomorrow both sign; after that only this one does.")


@app.command()
def deliveries(webhook: Webhook, limit: Limit = 50, after: After = None, as_json: AsJson = False) -> None:
    """What it was sent, newest first."""
    with connect() as client:
        page = client.webhooks.deliveries(_an_id(webhook), limit=limit, after=after)
    if as_json:
        out_json({"data": [each.raw for each in page], "next_cursor": page.next_cursor})
        return
    rows = [
        (moment(each.created_at), each.kind, each.event_id, each.state, each.attempts, _answer(each), moment(each.next_at))
        for each in page
    ]
    out(table(("AT", "EVENT", "ID", "STATE", "ATTEMPTS", "ANSWER", "NEXT"), rows))
    if page.next_cursor:
        talk(f"There are more: tune webhooks deliveries {webhook} --after {page.next_cursor}")


def _an_id(text: str) -> str:
    if not ids.is_id(text, ids.WEBHOOK):
        raise usage(f"This is not the id of an endpoint: that is {ids.WEBHOOK}_ and 26 letters and digits.")
    return text


def _is_on(enabled: bool, why_not: str | None) -> str:
    return "on" if enabled else f"off: {why_not}" if why_not else "off"


def _answer(delivery: Delivery) -> str:
    return " ".join(str(part) for part in (delivery.last_status, delivery.last_error) if part is not None) or "-"
