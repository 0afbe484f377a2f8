"""`model predict`: ask a classifier about one image, one picture file or one text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.faces.cli.edge import connect, usage
from luthier.faces.cli.options import AsJson
from luthier.faces.cli.shown import out, out_json, table, talk

Named = Annotated[str, typer.Argument(metavar="[NAME]", help="Whose version in Production answers.")]
ImageFile = Annotated[
    Path | None, typer.Option("--image", help="File of its pixels, row by row: a JSON list, or numbers between commas or blanks.")
]
PictureFile = Annotated[
    Path | None, typer.Option("--picture", help="A PNG or a JPEG; it is scaled to the greys that the model reads.")
]
AsDigit = Annotated[
    bool, typer.Option("--digit", help="With --picture: make of it what MNIST has, light on dark and centred by its mass.")
]
TextOption = Annotated[str | None, typer.Option("--text", help="The text itself.")]
_MOST_BYTES = 16 * 1024 * 1024
_SHOWN = 5


def add_to(app: typer.Typer) -> None:
    """Make the verb of this file a command of `app`."""
    app.command()(predict)


def predict(
    name: Named = "MNISTClassifier",
    image: ImageFile = None,
    picture: PictureFile = None,
    digit: AsDigit = False,
    text: TextOption = None,
    as_json: AsJson = False,
) -> None:
    """Tell to which class an image, a picture or a text belongs; the version in Production answers."""
    if [image, picture, text].count(None) != 2:
        raise usage("Give --image FILE, --picture FILE or --text.")
    if digit and picture is None:
        raise usage("--digit goes with --picture.")
    pixels = None if image is None else _pixels(image)
    data = None if picture is None else _read(picture, "--picture")
    with connect() as client:
        if data is None:
            found = client.predict(image=pixels, text=text, model=name)
        else:
            found = client.predict_picture(data, model=name, digit=digit)
    if as_json:
        out_json(found)
        return
    out(str(found.prediction))
    likely = sorted(zip(found.probabilities, found.classes, strict=True), reverse=True)[:_SHOWN]
    talk(table(("CLASS", "PROBABILITY"), [(label, f"{each:.1%}") for each, label in likely]))
    talk(f"{found.model_name}@{found.model_version} answered.")


def pixels_of(text: str) -> list[float]:
    """Numbers from 0 to 1; what holds one above 1 runs from 0 to 255. Raises: ValueError.

    >>> pixels_of("[0, 0.5, 1]"), pixels_of("0,255 51")
    ([0.0, 0.5, 1.0], [0.0, 1.0, 0.2])
    """
    listed: Any = json.loads(text) if text.lstrip().startswith("[") else text.replace(",", " ").split()
    numbers = [float(each) for each in listed]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a pixel is no finite number")
    return [each / 255 for each in numbers] if max(numbers, default=0) > 1 else numbers


def _pixels(path: Path) -> list[float]:
    try:
        return pixels_of(_read(path, "--image").decode())
    except (ValueError, TypeError):
        raise usage("--image cannot be read: it holds something else than numbers.") from None


def _read(path: Path, option: str) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise usage(f"The file of {option} is too large for one image.")
        return path.read_bytes()
    except OSError as error:
        raise usage(f"{option} cannot be read: {error.strerror}.") from None
