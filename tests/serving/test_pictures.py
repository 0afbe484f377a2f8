"""Picture files as pixels: what is read how, and row P04 of the catalogue of bad input, which files are refused before what."""

import base64
import io
import random
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image, ImageDraw

from luthier.errors import FieldInvalid, LuthierError, TooLarge
from luthier.serving import pictures
from luthier.serving.pictures import from_base64, pixels_of

SIDE = 28
GREYS = bytes(number * 7 % 256 for number in range(SIDE * SIDE))


def saved(image, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def grey(tone=200, size=(SIDE, SIDE)):
    return Image.new("L", size, tone)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_says(width, height, *more):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    rest = b"".join(more) or chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + head + rest + chunk(b"IEND", b"")


def seven(size=(640, 480), ink=20, paper=235):
    """A seven drawn on a page, not in its middle."""
    page = Image.new("L", size, paper)
    draw = ImageDraw.Draw(page)
    draw.line([(330, 120), (430, 120), (360, 300)], fill=ink, width=24, joint="curve")
    return page


def centre(pixels):
    total = sum(pixels)
    across = sum(tone * (place % SIDE) for place, tone in enumerate(pixels)) / total
    return across, sum(tone * (place // SIDE) for place, tone in enumerate(pixels)) / total


# -- what is read ------------------------------------------------------------------------------------------------------


def test_a_picture_of_the_models_own_size_keeps_its_very_greys():
    assert pixels_of(saved(Image.frombytes("L", (SIDE, SIDE), GREYS)), SIDE) == tuple(tone / 255 for tone in GREYS)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_colours_palettes_and_alpha_become_the_same_grey(mode):
    assert set(pixels_of(saved(grey().convert(mode)), SIDE)) == {200 / 255}


def test_16_bits_become_8():
    assert set(pixels_of(saved(Image.new("I;16", (SIDE, SIDE), 200 * 257)), SIDE)) == {200 / 255}


def test_one_bit_is_black_or_white():
    assert set(pixels_of(saved(grey(255).convert("1")), SIDE)) == {1.0}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("how", [{}, {"progressive": True}])
def test_jpegs_of_every_kind_are_read(mode, how):
    found = pixels_of(saved(grey(200, (300, 300)).convert(mode), "JPEG", **how), SIDE)
    assert found == pytest.approx([200 / 255] * len(found), abs=0.01)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_shows_through_is_white(mode):
    picture = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, SIDE, 14))
    found = pixels_of(saved(picture.convert(mode)), SIDE)
    assert found == (0.0,) * 14 * SIDE + (1.0,) * 14 * SIDE


def test_a_transparent_colour_of_a_palette_is_white():
    picture = Image.new("P", (SIDE, SIDE), 0)
    assert set(pixels_of(saved(picture, transparency=0), SIDE)) == {1.0}


def test_a_picture_is_turned_as_the_camera_was_held():
    upright = Image.new("L", (SIDE, SIDE), 0)
    upright.paste(255, (0, 0, SIDE, 7))
    notes = Image.Exif()
    notes[0x0112] = 6  # the camera was turned: what is its left side is the top
    found = pixels_of(saved(upright.transpose(Image.Transpose.ROTATE_90), exif=notes), SIDE)
    assert found == pixels_of(saved(upright), SIDE)


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (1, 5000), (5000, 1)])
def test_a_picture_that_is_no_square_is_filled_up_with_its_border(size):
    assert set(pixels_of(saved(grey(90, size)), SIDE)) == {90 / 255}


@pytest.mark.parametrize("size", [1, 7, 56, 1000, 2049])
def test_other_sizes_are_scaled(size):
    picture = Image.new("L", (size, size), 255)
    picture.paste(0, (0, 0, size // 2, size))
    found = pixels_of(saved(picture), SIDE)
    assert len(found) == SIDE * SIDE
    assert sum(found) / len(found) == pytest.approx(1 - size // 2 / size, abs=0.02)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("ink", "paper"), [(20, 235), (235, 20), (120, 180)])
def test_a_digit_becomes_as_mnist_has_it_on_whatever_paper(ink, paper, kind):
    found = pixels_of(saved(seven(ink=ink, paper=paper).convert("RGB"), kind), SIDE, digit=True)
    lines = [found[at : at + SIDE] for at in range(0, len(found), SIDE)]
    inked = [number for number, line in enumerate(lines) if any(line)]
    assert max(found) > 0.9
    assert 19 <= len(inked) <= 21, "20 of 28 lines"
    assert inked == list(range(inked[0], inked[-1] + 1))
    assert centre(found) == pytest.approx((14, 14), abs=0.6)
    assert found[0] == found[-1] == 0.0


def test_base64_is_read_as_it_is_and_as_a_data_url():
    data = saved(grey())
    text = base64.b64encode(data).decode()
    assert from_base64(text) == from_base64(f"data:image/png;base64,{text}") == data


# -- P04: what is refused ----------------------------------------------------------------------------------------------


def refused(data, said, code="bad_picture", **how):
    with pytest.raises(FieldInvalid, match=said) as error:
        pixels_of(data, SIDE, **how)
    assert (error.value.error_code, error.value.param) == (code, "picture")


def test_p04_a_bomb_is_refused_by_what_it_says_of_itself():
    tracemalloc.start()
    with pytest.raises(TooLarge, match=r"50,000 x 50,000 = 2,500,000,000 pixels; at most 16,777,216 are read"):
        pixels_of(png_that_says(50_000, 50_000), SIDE)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * 1024 * 1024


@pytest.mark.parametrize("size", [(65_500, 257), (257, 65_500)])
def test_p04_a_jpeg_is_held_to_the_same(size):
    with pytest.raises(TooLarge, match=f"{size[0]:,} x {size[1]:,}"):
        pixels_of(saved(grey(0, size), "JPEG"), SIDE)


def test_p04_text_that_unpacks_to_much_is_not_unpacked():
    note = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(16 * 1024 * 1024)))
    tracemalloc.start()
    refused(png_that_says(SIDE, SIDE, note, chunk(b"IDAT", b"")), "is broken|is cut off")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 1024 * 1024


def test_p04_a_jpeg_of_a_thousand_scans_is_not_begun():
    data = saved(grey(9, (256, 256)).convert("RGB"), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    refused(data[:-2] + scan * 1000 + b"\xff\xd9", "more than 100 scans")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_p04_a_file_that_is_cut_off_is_none(kind, share):
    data = saved(Image.effect_noise((200, 200), 80), kind)
    refused(data[: int(len(data) * share)], "is cut off|is broken")


def test_p04_an_animation_is_no_picture():
    frames = [grey(tone) for tone in (1, 100, 200)]
    refused(saved(frames[0], save_all=True, append_images=frames[1:]), "an animation of 3 frames")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (saved(grey(), "GIF"), "a GIF"),
        (saved(grey(), "BMP"), "a BMP"),
        (saved(grey(), "TIFF"), "a TIFF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "markup"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x93NUMPY\x01\0", "an array of numpy"),
        (b"\x7fELF\x02", "no picture that is known"),
        (b"\x89PN", "no picture that is known"),
    ],
)
def test_p04_other_files_are_named_and_not_tried(data, found):
    refused(data, f"The file is {found}.*PNG and JPEG are read", "picture_type")


def test_p04_nothing_is_no_picture():
    refused(b"", "0 bytes")


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_p04_a_picture_without_pixels_is_broken(size):
    refused(png_that_says(*size), "is broken")


@pytest.mark.parametrize("tones", [(200, 200), (200, 210)])
def test_p04_a_page_without_a_digit_is_none(tones):
    refused(saved(seven(paper=tones[0], ink=tones[1])), "Nothing stands out", digit=True)


@pytest.mark.parametrize("text", ["@@@", "aGVsbG8", "aGVs bG8=", "é", "data:text/html;base64,aGVsbG8=", "="])
def test_p04_what_is_no_base64_is_refused(text):
    with pytest.raises(FieldInvalid, match="not base64"):
        from_base64(text)


def with_right_sums(data):
    """A PNG whose chunks are what they say, so that what is wrong in it is not found by its sums."""
    made, at = data[:8], 8
    while at + 12 <= len(data) and at + 12 + (size := int.from_bytes(data[at : at + 4], "big")) <= len(data):
        made += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + size])
        at += 12 + size
    return made


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_p04_whatever_is_wrong_in_a_file_it_is_read_or_refused():
    dice = random.Random(7)
    noise = Image.effect_noise((40, 30), 80)
    notes = Image.Exif()
    notes[0x0112] = 6
    whole = [saved(noise.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    whole += [saved(noise.convert(mode), "JPEG", progressive=True, exif=notes) for mode in ("L", "RGB", "CMYK")]
    ends = {"read": 0, "refused": 0}
    for _ in range(3000):
        broken = bytearray(dice.choice(whole))
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(dice.choice((120, len(broken))))
            broken[at : at + dice.randint(0, 9)] = dice.randbytes(dice.randint(0, 9))
        data = bytes(broken)
        try:
            found = pixels_of(with_right_sums(data) if data.startswith(b"\x89PNG") else data, SIDE, digit=dice.random() < 0.5)
        except LuthierError:
            ends["refused"] += 1
        else:
            ends["read"] += 1
            assert len(found) == SIDE * SIDE
            assert 0 <= min(found) <= max(found) <= 1
    assert min(ends.values()) > 100


def test_the_bounds_are_those_that_the_page_tells():
    assert (pictures.MOST_BYTES, pictures.MOST_PIXELS) == (8_388_608, 16_777_216)
