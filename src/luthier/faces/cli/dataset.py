"""`dataset`: check, upload, look at, compare, mend and remove training data."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from luthier import ids
from luthier.faces.cli.edge import connect, new_app, run, usage
from luthier.faces.cli.options import After, AsJson, DatasetArgument, DatasetOption, Force, Limit, Yes, sure, the_dataset
from luthier.faces.cli.saving import may_replace, parts_removed_when_full, transfer
from luthier.faces.cli.shown import moment, out, out_json, size, table, talk

if TYPE_CHECKING:
    from luthier.faces.sdk.answers import Dataset
    from luthier.faces.sdk.client import Client

app = new_app("Upload, look at and remove training data.")

FileArgument = Annotated[
    str | None,
    typer.Argument(metavar="[FILE]", help="JSON lines, JSON, CSV, Parquet or text; also packed; - is stdin.", show_default=False),
]
FileOption = Annotated[str | None, typer.Option("--file", help="The same, as a flag.")]
Name = Annotated[str | None, typer.Option("--name", help="Versions of a name are numbered; the file's name by default.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until a large file is checked.")]
Against = Annotated[
    list[str] | None,
    typer.Option("--against", help="A dataset (of `validate`: a file) that it should share no row with; may be given again."),
]
DropBadRows = Annotated[bool, typer.Option("--drop-bad-rows", help="Leave bad rows out, instead of refusing the file.")]
Map = Annotated[
    str | None,
    typer.Option("--map", help="Fields that are read from others: prompt=question,completion=answer.", show_default=False),
]


class DownloadFormat(enum.StrEnum):
    """What `download` writes."""

    ORIGINAL = "original"
    JSONL = "jsonl"


Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; <id>.jsonl here by default.")]

DatasetOrFile = Annotated[
    str,
    typer.Argument(metavar="DATASET_OR_FILE", help="A dataset (id, name@version or name), or a file here.", show_default=False),
]
Version = Annotated[str, typer.Argument(help="A dataset's id, or name@version.", show_default=False)]
FilePath = Annotated[Path, typer.Argument(metavar="FILE", help="A file here.", show_default=False)]


@app.command()
def upload(
    file: FileArgument = None,
    file_option: FileOption = None,
    name: Name = None,
    against: Against = None,
    drop_bad_rows: DropBadRows = False,
    mapping: Map = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Check a file, keep it as a dataset, and print its id."""
    source = _source(file, file_option)
    with connect() as client:
        with transfer("upload") as report, parts_removed_when_full([]):
            dataset = client.datasets.upload(
                source,
                name=name,
                against=against or (),
                drop_bad_rows=drop_bad_rows,
                mapping=mapping,
                on_progress=lambda done, total: report("", done, total),
            )
        _made(client, dataset, no_wait=no_wait, as_json=as_json)


@app.command("import")
def import_dataset(
    source: Annotated[
        str, typer.Argument(help="A hub dataset (openai/gsm8k), s3://, gs://, https://, or luthier/digits.", show_default=False)
    ],
    file: Annotated[str | None, typer.Option("--file", help="Of several files: which one.", show_default=False)] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of a hub dataset: commit, branch or tag.")] = None,
    name: Name = None,
    mapping: Map = None,
    against: Against = None,
    drop_bad_rows: DropBadRows = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Have the server fetch a dataset, check it and keep it, and print its id."""
    with connect() as client:
        dataset = client.datasets.import_from(
            source, file=file, revision=revision, name=name, mapping=mapping, against=against or (), drop_bad_rows=drop_bad_rows
        )
        _made(client, dataset, no_wait=no_wait, as_json=as_json)


@app.command("list")
def list_datasets(limit: Limit = 50, after: After = None, as_json: AsJson = False) -> None:
    """Your team's datasets, newest first."""
    with connect() as client:
        page = client.datasets.list(limit=limit, after=after)
    if as_json:
        out_json({"data": [dataset.raw for dataset in page], "next_cursor": page.next_cursor})
        return
    rows = [
        (
            each.id,
            f"{each.name}@{each.version}",
            each.state,
            each.get("rows"),
            each.get("tokens"),
            size(each.bytes),
            moment(each.created_at),
        )
        for each in page
    ]
    out(table(("ID", "NAME", "STATE", "ROWS", "TOKENS", "SIZE", "CREATED"), rows))
    if page.next_cursor:
        talk(f"There are more: dataset list --after {page.next_cursor}")


@app.command()
def show(dataset: DatasetArgument = None, dataset_id: DatasetOption = None, as_json: AsJson = False) -> None:
    """One dataset with its report, and how things spread over its rows."""
    with connect() as client:
        found = client.datasets.get(client.datasets.id_of(the_dataset(dataset, dataset_id)))
        spread = client.datasets.distributions(found.id) if found.state == "ready" and not as_json else None
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.looking import bars
    from luthier.faces.cli.reports import dataset_text

    out(dataset_text(found))
    if spread is not None:
        out(bars(spread))


@app.command()
def samples(
    dataset: DatasetArgument = None,
    dataset_id: DatasetOption = None,
    by: Annotated[str, typer.Option("--by", help="random, longest, shortest or flagged.")] = "random",
    count: Annotated[int, typer.Option("-n", min=1, max=100, help="Most rows to show.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same rows.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Some rows as they are stored for training."""
    with connect() as client:
        named = client.datasets.id_of(the_dataset(dataset, dataset_id))
        found = client.datasets.samples(named, by=by, n=count, seed=seed)
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.looking import sample_text

    out("\n\n".join(sample_text(each) for each in found.data))


@app.command()
def preview(
    source: DatasetOrFile,
    base_model: Annotated[
        str, typer.Option("--base-model", help="Whose template and tokenizer render; of a file also a folder.")
    ] = "luthier/tiny",
    method: Annotated[str | None, typer.Option("--method", help="The first that learns from such rows, by default.")] = None,
    mapping: Map = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=20, help="Most rows to show.")] = 3,
    line: Annotated[int | None, typer.Option("--line", min=1, help="From this line of the file on.")] = None,
    max_seq_len: Annotated[int | None, typer.Option(min=1, help="Cut rows here; at the base's context by default.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="A line for each token.")] = False,
    as_json: AsJson = False,
) -> None:
    """What will be learned: the rendered rows, which tokens carry loss, which are cut, what is packed together."""
    wish: dict[str, int | None] = {"rows": rows, "line": line, "max_seq_len": max_seq_len}
    if not _is_here(source):
        if mapping is not None:
            raise usage("--map is for a file here: the rows of a dataset are stored mapped.")
        with connect() as client:
            named = client.datasets.id_of(the_dataset(source, None))
            found = client.datasets.preview(named, base_model=base_model, method=method, **wish).raw
    else:
        from luthier.faces.cli import checking

        found = checking.preview(Path(source), base_model, {**wish, "method": method}, mapping)
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.previews import preview_text

    out(preview_text(found, tokens=tokens))


def _is_here(source: str) -> bool:
    """Whether this is meant to be a file, and not a dataset."""
    path = Path(source)
    return not ids.is_id(source, ids.DATASET) and (path.exists() or len(path.parts) > 1 or path.suffix != "")


@app.command()
def diff(old: Version, new: Version, as_json: AsJson = False) -> None:
    """What became of the rows of one version in another."""
    with connect() as client:
        found = client.datasets.diff(old, new)
    if as_json:
        out_json(found)
        return
    from luthier.faces.cli.looking import difference_text

    out(difference_text(found))


@app.command()
def validate(file: FilePath, against: Against = None, mapping: Map = None, as_json: AsJson = False) -> None:
    """Check a file here, without a server; ends with 1 where it would be refused."""
    from luthier.faces.cli import checking
    from luthier.faces.cli.findings import early, report_text

    with transfer("check") as bar:
        report = checking.validate(file, [Path(each) for each in against or ()], mapping, early(bar))
    if as_json:
        out_json(report)
    else:
        out(report_text(report))
    raise typer.Exit(1 if report["errors"] else 0)


@app.command()
def fix(
    source: DatasetOrFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Of a file: where the good rows go.")] = None,
    mapping: Map = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Leave bad and repeated rows out, and list them: the next version of a dataset, or a file beside a file."""
    from luthier.faces.cli import checking
    from luthier.faces.cli.looking import fixed_text

    if output is None:
        with connect() as client:
            fixed = client.datasets.fix(client.datasets.id_of(the_dataset(source, None))).raw
        name = fixed["dataset"]["id"]
    else:
        may_replace([output], force=force)
        fixed, name = checking.fix(Path(source), output, mapping), str(output)
    if as_json:
        out_json(fixed)
    else:
        out(name)
        talk(fixed_text(fixed))


@app.command()
def delete(dataset: DatasetArgument = None, dataset_id: DatasetOption = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a dataset that no job needs."""
    ref = the_dataset(dataset, dataset_id)
    if not ids.is_id(ref, ids.DATASET) and "@" not in ref:
        raise usage(f"Which version of {ref}? Name it by its id, or as {ref}@1.")
    sure("Delete the dataset?", yes=yes)
    with connect() as client:
        found = client.datasets.id_of(ref)
        client.datasets.delete(found)
    if as_json:
        out_json({"id": found, "deleted": True})
    talk("Deleted.")


@app.command()
def download(
    dataset: DatasetArgument = None,
    dataset_id: DatasetOption = None,
    output: Output = None,
    form: Annotated[
        DownloadFormat, typer.Option("--format", help="The bytes that were uploaded, or jsonl: the rows as they are kept.")
    ] = DownloadFormat.ORIGINAL,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the file as it was uploaded, or the rows that were understood; checked, and taken up where it broke off."""
    ref = the_dataset(dataset, dataset_id)
    with connect() as client:
        found = client.datasets.id_of(ref)
        # Named by its id: what the server calls it is no path of ours.
        path = output or Path(f"{found}.jsonl")
        may_replace([path], force=force)
        with transfer(path.name) as report, parts_removed_when_full([path]):
            client.datasets.download(found, path, form=form.value, on_progress=lambda done, total: report("", done, total))
    if as_json:
        out_json({"id": found, "path": str(path), "bytes": path.stat().st_size})
    else:
        out(str(path))


def _made(client: Client, dataset: Dataset, *, no_wait: bool, as_json: bool) -> None:
    """Wait until a new version is checked, tell what was found, and end with 1 where it was refused."""
    if dataset.state == "validating" and not no_wait:
        fetched = dataset.get("arriving") is not None
        talk("It is being fetched ..." if fetched else "It is there; it is being checked ...")
        with transfer("fetch" if fetched else "check") as report:
            dataset = client.datasets.wait(dataset.id, on_progress=lambda done, total: report("", done, total))
    if as_json:
        out_json(dataset)
    else:
        out(dataset.id)
        _talk_report(dataset)
    raise typer.Exit(1 if dataset.state == "rejected" else 0)


def _source(argument: str | None, option: str | None) -> Path | BinaryIO:
    if (argument is None) == (option is None):
        raise usage("Name one file: dataset upload --file data.jsonl")
    name = argument if option is None else option
    return sys.stdin.buffer if name == "-" else Path(str(name))


def _talk_report(dataset: Dataset) -> None:
    from luthier.faces.cli.reports import dataset_text

    talk(dataset_text(dataset))


def main() -> None:
    """The command."""
    run(app)


if __name__ == "__main__":
    main()
