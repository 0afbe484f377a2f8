"""A LoRA and a head of classes: the same answers here and in transformers with PEFT, whatever is batched with what."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.modeling.conftest import CONFIGS
from tests.modeling.test_plain import SHAPE, trained
from transformers import AutoModelForSequenceClassification

from luthier.modeling import adapter_files
from luthier.modeling.classes import class_logits, new_head
from luthier.modeling.engines import open_engine
from luthier.modeling.plain import PlainEngine

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROWS = [[3, 4, 5, 6], [7], [8, 9, 10, 11, 12, 13], [14, 15]]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "gemma2"])
def test_peft_and_transformers_load_it_and_give_the_same_logits(random_base, random_model, tmp_path, kind):
    engine, head_CD = trained(open_engine(random_base(kind), SHAPE, seed=0)), new_head(3, 32, seed=5)
    ours_NC = class_logits(engine, head_CD, ROWS, 100)
    random_model(kind).save_pretrained(tmp_path / "base")
    engine.save_adapter(tmp_path / "model", base_model=str(tmp_path / "base"), revision="1", head=head_CD)

    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=3, attn_implementation="eager" if kind == "gemma2" else "sdpa"
    )
    theirs = PeftModel.from_pretrained(model, tmp_path / "model").eval()
    with torch.no_grad():
        theirs_NC = torch.cat([theirs(input_ids=torch.tensor([row])).logits for row in ROWS])
    assert torch.allclose(ours_NC, theirs_NC, atol=1e-4, rtol=1e-4)
    assert ours_NC.shape == (4, 3)
    assert CONFIGS[kind]().num_labels == 2  # the third class came from the head


def test_what_is_batched_with_what_changes_nothing(random_base):
    engine, head_CD = trained(PlainEngine(random_base(), SHAPE, seed=0)), new_head(3, 32, seed=5)
    whole, alone = (class_logits(engine, head_CD, ROWS, most) for most in (100, 1))
    assert torch.allclose(whole, alone, atol=1e-5)
    assert class_logits(engine, head_CD, [], 100).shape == (0, 3)


def test_saved_and_loaded_it_answers_the_same_bit_by_bit(random_base, tmp_path):
    engine, head_CD = trained(PlainEngine(random_base(), SHAPE, seed=0)), new_head(3, 32, seed=5)
    engine.save_adapter(tmp_path, base_model="b", revision="1", head=head_CD)
    fresh, other_CD = PlainEngine(engine.base, SHAPE, seed=9), new_head(3, 32, seed=6)
    fresh.load_adapter(tmp_path, head=other_CD)
    assert torch.equal(class_logits(fresh, other_CD, ROWS, 100), class_logits(engine, head_CD, ROWS, 100))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["classifier", "score"]


def test_a_head_is_as_random_as_its_seed():
    assert torch.equal(new_head(2, 8, 1), new_head(2, 8, 1))
    assert not torch.equal(new_head(2, 8, 1), new_head(2, 8, 2))
    assert new_head(50, 512, 0).std().item() == pytest.approx(0.02, rel=0.02)


def test_a_model_with_a_head_is_no_language_model_and_the_other_way_round(random_base, tmp_path):
    engine = PlainEngine(random_base(), SHAPE, seed=0)
    engine.save_adapter(tmp_path / "classes", base_model="b", revision="1", head=new_head(3, 32, 0))
    engine.save_adapter(tmp_path / "words", base_model="b", revision="1")
    with pytest.raises(ValueError, match="no plain LoRA"):
        adapter_files.load(engine.base.linears, tmp_path / "classes", engine.base.device)
    with pytest.raises(ValueError, match="no head of classes"):
        engine.load_adapter(tmp_path / "words", head=new_head(3, 32, 0))


def test_a_head_of_another_shape_is_refused_before_it_is_read(random_base, tmp_path):
    engine = PlainEngine(random_base(), SHAPE, seed=0)
    engine.save_adapter(tmp_path, base_model="b", revision="1", head=new_head(3, 32, 0))
    with pytest.raises(ValueError, match="another shape"):
        engine.load_adapter(tmp_path, head=new_head(4, 32, 0))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors.pop("base_model.model.score.weight")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="no head of classes"):
        engine.load_adapter(tmp_path, head=new_head(3, 32, 0))
