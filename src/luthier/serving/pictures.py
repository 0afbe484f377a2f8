"""A picture file as the pixels that a classifier reads. A file is not believed: what it says of itself is held to bounds first.

Only the readers named here are used, each only for files that begin as its format does; Pillow's forty others are never tried.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from luthier.errors import FieldInvalid, TooLarge

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

MOST_BYTES = 8 * 1024 * 1024
MOST_PIXELS = 4096 * 4096
"""Of a picture before it is scaled: four bytes each while it is read, eight at the worst (a progressive JPEG in CMYK)."""
_MOST_SCANS = 100
"""Of a JPEG, each of which visits all of its pixels again. Cameras and encoders write ten or so."""
_WORKING_SIDE = 1024
_BRIGHTEST = 255
_DIGIT_BOX = 20 / 28
"""Of the side of an MNIST image, its digit has this much. https://yann.lecun.org/exdb/mnist/"""
_LEAST_CONTRAST = 32
"""Of 255: what stands out less is grain of paper, or what JPEG did to an edge."""

_KNOWN = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"<", "markup, such as SVG or HTML"),
    (b"\x93NUMPY", "an array of numpy"),
)
_ORIENTATION = 0x0112
_DATA_URL = re.compile(r"data:image/(?:png|jpeg);base64,", re.ASCII)
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error)
"""What Pillow's readers raise for files that are broken."""

# What they say of a camera's notes is made of the file's own numbers: each would be another line on the server's console.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


def from_base64(text: str) -> bytes:
    """The file in this text, which may be a `data:` URL. Raises: FieldInvalid."""
    start = _DATA_URL.match(text)
    try:
        return base64.b64decode(text[start.end() if start else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise _bad("`picture` is not base64.", "Encode the bytes of the file: `base64 -w0 seven.png`.", "bad_base64") from None


def pixels_of(data: bytes, side: int, *, digit: bool = False) -> tuple[float, ...]:
    """`side` x `side` greys from 0 (black) to 1 (white), line by line. One of that size already keeps its very greys.

    The whole picture is scaled, its shorter side filled up with the tone of its border; what shows through it is white. A `digit`
    becomes what MNIST has: light on dark, scaled into 20 of 28, with its centre of mass in the middle.
    Raises: FieldInvalid, TooLarge.
    """
    read = _reader(data)
    try:
        picture = read(io.BytesIO(data))
        _check(picture, data)
        grey = _upright(picture, _grey(picture, 8 * side))
    except _UNREADABLE as error:
        said = "is cut off" if "truncated" in str(error) else "is broken"
        raise _bad(f"The file of the picture {said}.", "Save it again, and send all of it.") from None
    made = _as_mnist(grey, side) if digit else _scaled(_square(grey), side, side)
    return tuple(each / _BRIGHTEST for each in made.tobytes())


def _reader(data: bytes) -> Callable[[io.BytesIO], ImageFile]:
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    found = next((name for start, name in _KNOWN if data.startswith(start)), "no picture that is known here")
    if data[8:12] == b"WEBP":
        found = "a WebP"
    if not data:
        raise _bad("The picture is empty: 0 bytes.", "Send the bytes of a PNG or a JPEG.")
    raise _bad(f"The file is {found}; PNG and JPEG are read.", "Save it as PNG.", "picture_type")


def _check(picture: ImageFile, data: bytes) -> None:
    """Before anything is unpacked. Raises: TooLarge, FieldInvalid."""
    width, height = picture.size
    if width * height > MOST_PIXELS:
        said = f"The picture is {width:,} x {height:,} = {width * height:,} pixels; at most {MOST_PIXELS:,} are read."
        raise TooLarge(said, hint="Scale it down before you send it.", param="picture")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise _bad(f"The picture is an animation of {frames} frames.", "Send one frame of it.")
    if picture.format == "JPEG" and data.count(b"\xff\xda") > _MOST_SCANS:
        raise _bad(f"The JPEG has more than {_MOST_SCANS} scans.", "Save it again, as a plain JPEG.")


def _grey(picture: ImageFile, enough: int) -> Image.Image:
    """Its lightness, on white where it is transparent, with sides of `_WORKING_SIDE` at most."""
    from PIL import Image

    picture.draft("L", (enough, enough))  # a JPEG is unpacked at an eighth, where that is enough
    made: Image.Image = picture
    if picture.mode == "I;16":
        # Pillow's own conversion would make everything above 255 of 65,535 white.
        made = picture.convert("I").point([(each + 128) // 257 for each in range(65_536)], "L")
    elif "transparency" in picture.info:
        made = picture.convert("RGBA")
    if made.mode in {"RGBA", "LA", "PA"}:
        light, alpha = made.convert("L"), made.getchannel("A")
        made = Image.composite(light, Image.new("L", light.size, _BRIGHTEST), alpha)
    made = made if made.mode == "L" else made.convert("L")
    made.load()
    return made.reduce(max(1, math.ceil(max(made.size) / _WORKING_SIDE)))


def _upright(picture: ImageFile, grey: Image.Image) -> Image.Image:
    """As the camera was held."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(picture.getexif().get(_ORIENTATION, 1))
    return grey if turn is None else grey.transpose(turn)


def _square(grey: Image.Image) -> Image.Image:
    from PIL import Image

    width, height = grey.size
    if width == height:
        return grey
    side = max(width, height)
    made = Image.new("L", (side, side), _border(grey))
    made.paste(grey, ((side - width) // 2, (side - height) // 2))
    return made


def _scaled(grey: Image.Image, width: int, height: int) -> Image.Image:
    from PIL.Image import Resampling

    if grey.size == (width, height):
        return grey
    smaller = width * height < grey.width * grey.height
    return grey.resize((width, height), Resampling.BOX if smaller else Resampling.BILINEAR)


def _border(grey: Image.Image) -> int:
    """The tone that half of the border is darker than."""
    width, height = grey.size
    edges = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    tones = sorted(b"".join(grey.crop(edge).tobytes() for edge in edges))
    return tones[len(tones) // 2]


def _as_mnist(grey: Image.Image, side: int) -> Image.Image:
    from PIL import Image

    ink = _ink(grey)
    ink = ink.crop(ink.getbbox())
    ratio = side * _DIGIT_BOX / max(ink.size)
    ink = _scaled(ink, max(1, round(ink.width * ratio)), max(1, round(ink.height * ratio)))
    across, down = _centre_of_mass(ink)
    made = Image.new("L", (side, side), 0)
    # MNIST's centre is the middle of the pixel after the half: 14.5 of 28, as its images show.
    made.paste(ink, (round(side / 2 + 0.5 - across), round(side / 2 + 0.5 - down)))
    return made


def _ink(grey: Image.Image) -> Image.Image:
    """How much each pixel stands out from the border: 255 where it does most. Raises: FieldInvalid."""
    ground, (darkest, lightest) = _border(grey), _extremes(grey)
    on_light = ground - darkest > lightest - ground
    most = max(ground - darkest, lightest - ground)
    if most < _LEAST_CONTRAST:
        said = f"Nothing stands out from the background of the picture: by {most} of {_BRIGHTEST} at most."
        raise _bad(said, "Send a digit with a margin around it, dark on light or light on dark.")
    above = [(ground - tone if on_light else tone - ground) * _BRIGHTEST / most for tone in range(_BRIGHTEST + 1)]
    return grey.point([round(each) if each >= _LEAST_CONTRAST else 0 for each in above])


def _extremes(grey: Image.Image) -> tuple[int, int]:
    tones = [tone for tone, count in enumerate(grey.histogram()) if count]
    return tones[0], tones[-1]


def _centre_of_mass(ink: Image.Image) -> tuple[float, float]:
    """From the left and from the top, in pixels."""
    tones, width = ink.tobytes(), ink.width
    total = sum(tones)
    across = sum(tone * (place % width + 0.5) for place, tone in enumerate(tones)) / total
    down = sum(tone * (place // width + 0.5) for place, tone in enumerate(tones)) / total
    return across, down


def _bad(said: str, hint: str, code: str = "bad_picture") -> FieldInvalid:
    return FieldInvalid(said, hint=hint, param="picture", code=code)
