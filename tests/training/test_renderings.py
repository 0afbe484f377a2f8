"""The tokens of a run are those of its submission: another tokenizer, template or rule is refused."""

import json
import shutil

import pytest
from tests.datasets.conftest import TINY

from luthier.datasets.rendering import Renderer
from luthier.training.export import copy_tokenizer
from luthier.training.failures import AttemptFailed
from luthier.training.materials import renderer_of
from luthier.values import BaseSource


@pytest.fixture
def base(tmp_path):
    return shutil.copytree(TINY, tmp_path / "base")


def source(rendering_sha256):
    return BaseSource(id="luthier/tiny", revision="1", url="luthier:tiny", rendering_sha256=rendering_sha256)


def test_what_was_submitted_is_what_is_trained_with(base):
    known = Renderer.load(base).fingerprint
    assert renderer_of(base, source(known)).fingerprint == known
    assert renderer_of(base, source(None)).fingerprint == known
    assert "rendering_sha256" not in source(None).model_dump()


@pytest.mark.parametrize("change", ["template", "special token", "tokenizer"])
def test_another_rendering_is_refused(base, change):
    known = Renderer.load(base).fingerprint
    name = {"template": "chat_template.jinja", "special token": "tokenizer_config.json", "tokenizer": "tokenizer.json"}[change]
    text = (base / name).read_text("utf-8")
    if change == "template":
        text += " "
    elif change == "special token":
        text = json.dumps({**json.loads(text), "pad_token": None, "sep_token": "<|im_end|>"})
    else:
        text = json.dumps(json.loads(text), indent=1)
    (base / name).write_text(text, "utf-8")
    with pytest.raises(AttemptFailed) as failed:
        renderer_of(base, source(known))
    assert failed.value.failure.code == "rendering_differs"
    assert "luthier/tiny has another tokenizer" in failed.value.failure.message


@pytest.mark.parametrize("inside", [False, True])
def test_the_files_of_a_model_render_as_its_base_does(base, tmp_path, inside):
    if inside:  # older models have the template in their configuration
        config = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
        config["chat_template"] = (base / "chat_template.jinja").read_text("utf-8")
        (base / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        (base / "chat_template.jinja").unlink()
    model = tmp_path / "model"
    model.mkdir()
    copy_tokenizer(base, model)
    assert Renderer.load(model).fingerprint == Renderer.load(base).fingerprint
