"""From a data file to arrays, and what is refused on the way."""

import gzip
import io

import numpy as np
import pytest

from luthier.training.classifiers.data import read_samples
from luthier.training.failures import AttemptFailed

from .conftest import SHAPES, images, jsonl, samples, texts


def read(tmp_path, data: bytes, like=None):
    path = tmp_path / "rows"
    path.write_bytes(data)
    return read_samples(path, lambda done: None, like)


def test_images_are_brought_to_the_range_from_0_to_1_whichever_way_they_were_written(tmp_path):
    rows = images(9)
    whole = read(tmp_path, jsonl(rows))
    share = read(tmp_path, jsonl([{**row, "image": [pixel / 255 for pixel in row["image"]]} for row in rows]))
    assert whole.inputs.dtype == np.float32
    assert (whole.inputs.min() >= 0, whole.inputs.max()) == (True, 1)
    np.testing.assert_allclose(whole.inputs, share.inputs, atol=1e-7)
    assert (whole.classes, whole.labels.tolist()) == (SHAPES, [0, 1, 2] * 3)
    assert (whole.reads, whole.pixels, len(whole)) == ("images", 784, 9)


def test_a_table_is_the_same_as_json_lines(tmp_path):
    rows = images(9)
    table = "".join(f"{at % 3},{','.join(map(str, row['image']))}\n" for at, row in enumerate(rows))
    found = read(tmp_path, b"label," + b",".join(b"p" for _ in range(784)) + b"\n" + table.encode())
    assert found.classes == ("0", "1", "2")
    np.testing.assert_array_equal(found.inputs, read(tmp_path, jsonl(rows)).inputs)


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    rows = [{"text": "a", "label": label} for label in (10, "9", 2, 2)]
    assert read(tmp_path, jsonl(rows)).classes == ("2", "9", "10")


def test_validation_rows_are_numbered_as_the_training_rows_are(tmp_path):
    training = samples(texts(9))
    found = read(tmp_path, b"text,label\nthanks a lot,thanks\n", training)
    assert (found.classes, found.labels.tolist()) == (training.classes, [2])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no rows"),
        (jsonl([{"text": "a", "label": "b"}] * 3), "1 class"),
        (b"7,0,nan,0,0\n8,0,0,0,0\n", "Line 1.*0 to 255"),
        (jsonl([{"image": [0, 1, 2, 3], "label": 1}, {"image": [0] * 9, "label": 2}]), "Line 2.*9 pixels, the first one 4"),
        (jsonl([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]), "another method"),
        (b"\x80\x05pickle", "pickle"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path, data, words):
    with pytest.raises(AttemptFailed, match=words) as refused:
        read(tmp_path, data)
    assert refused.value.failure.code == "bad_data"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"text,label\na,new\n", "no training row"),
        (b"", "no rows"),
        (jsonl([{"image": [0, 1, 2, 3], "label": "bug"}]), "another kind"),
    ],
)
def test_validation_rows_of_another_kind_are_refused(tmp_path, data, words):
    with pytest.raises(AttemptFailed, match=words):
        read(tmp_path, data, samples(texts(9)))


def test_a_zipped_file_is_refused_by_name(tmp_path):
    with pytest.raises(AttemptFailed, match="gzip"):
        read(tmp_path, gzip.compress(io.BytesIO(b"text,label\n").getvalue()))
