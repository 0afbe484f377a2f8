"""Real llama.cpp behind the engines' seam: the same greedy answers as the model gives, for each adapter. An extra."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from luthier.backends.engines.echo import EchoEngine
from luthier.backends.engines.llama import LLAMA_COMMAND, LlamaEngine
from luthier.backends.engines.process import EngineProcess
from luthier.datasets.rendering import Renderer
from luthier.errors import ArtifactCorrupt, FieldInvalid, ModelNotAllowed
from luthier.modeling import llama
from luthier.modeling.tiny import SHIPPED
from luthier.seams import Classification, Generation, ServedClassifier, ServedModel
from luthier.settings import child_environment

needs_llama = pytest.mark.skipif(not llama.installed(), reason="llama-cpp-python is not installed")
PROMPT = (5, 9, 133, 17, 240)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random base in the shape of the shipped one, with its tokenizer and two adapters."""
    import torch
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM

    from luthier.modeling.load import frozen
    from luthier.modeling.plain import PlainEngine
    from luthier.modeling.types import LoraShape

    folder = tmp_path_factory.mktemp("llama")
    with as_file(files("luthier.bases.tiny")) as package, torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        shape = json.loads((package / "config.json").read_text()) | {"num_hidden_layers": 2, "initializer_range": 0.3}
        model = LlamaForCausalLM(LlamaConfig(**shape))
        model.save_pretrained(folder / "base")
        for name in set(SHIPPED) - {"config.json"}:
            shutil.copyfile(package / name, folder / "base" / name)
        for name in ("one", "two"):
            engine = PlainEngine(frozen(model, torch.device("cpu")), LoraShape(4, 8), seed=0)
            with torch.no_grad():
                for weight in engine.parameters.values():
                    weight.copy_(torch.randn(weight.shape) / 8)
            engine.save_adapter(folder / name, base_model="random", revision="1")
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    command = (*LLAMA_COMMAND, "--threads", "1")
    process = EngineProcess(tmp_path_factory.mktemp("run"), child_environment(), command=command, start_s=120)
    engine = LlamaEngine(process, EchoEngine())
    yield engine
    engine.close()


def served(base: Path, name: str | None) -> ServedModel:
    return ServedModel(f"model_{name}", base / "base", base / name if name else None)


def told(engine, model: ServedModel, **more) -> tuple[list[int], str | None]:
    pieces = list(engine.generate(model, Generation(PROMPT, **{"max_tokens": 12, **more})))
    return [token for piece in pieces for token in piece.token_ids], pieces[-1].finish_reason


def expected(base: Path, name: str | None) -> list[int]:
    import torch

    from luthier.modeling import adapter_files
    from luthier.modeling.generate import generate
    from luthier.modeling.load import load_base
    from luthier.modeling.types import Sampling

    loaded = load_base(base / "base", "cpu", "fp32")
    loaded.linears.carry(adapter_files.load(loaded.linears, base / name, torch.device("cpu")) if name else None)
    return list(generate(loaded, [PROMPT], Sampling(max_new_tokens=12))[0].token_ids)


@needs_llama
@pytest.mark.slow
def test_each_adapter_answers_as_the_model_does_and_not_as_its_neighbour(engine, base):
    wanted = {name: expected(base, name) for name in (None, "one", "two")}
    assert len({tuple(tokens) for tokens in wanted.values()}) == 3
    names = ("one", None, "two", "one")
    with ThreadPoolExecutor(len(names)) as pool:  # all at once: rows of one batch
        answers = list(pool.map(lambda name: told(engine, served(base, name)), names))
    assert answers == [(wanted[name], "length") for name in names]
    assert told(engine, served(base, "two")) == (wanted["two"], "length")


@needs_llama
@pytest.mark.slow
def test_an_answer_ends_at_a_stop_token_at_its_length_or_when_nobody_listens(engine, base):
    model = served(base, "one")
    whole, _ = told(engine, model)
    stop = whole[3]
    assert told(engine, model, stop_ids=(stop,)) == (whole[: whole.index(stop)], "stop")
    assert told(engine, model, max_tokens=1) == (whole[:1], "length")
    stream = engine.generate(model, Generation(PROMPT, 500))
    next(stream)
    stream.close()
    assert told(engine, model) == (whole, "length")
    drawn = told(engine, model, temperature=2.0, seed=7)
    assert drawn == told(engine, model, temperature=2.0, seed=7)
    assert drawn != (whole, "length")


@needs_llama
@pytest.mark.slow
def test_it_tells_how_likely_tokens_are_and_answers_in_a_form(engine, base):
    model = served(base, "one")
    whole, _ = told(engine, model)
    likely = [each for piece in engine.generate(model, Generation(PROMPT, 3, logprobs=2)) for each in piece.likely]
    assert [each.token_id for each in likely] == whole[:3]
    assert all(each.logprob < 0 and each.top[0] == (each.token_id, each.logprob) for each in likely)
    tokenizer = Renderer.load(base / "base")
    schema = '{"type": "array", "items": {"type": "integer"}, "maxItems": 2}'
    tokens, _ = told(engine, model, json_schema=schema, max_tokens=60, stop_ids=tuple(tokenizer.stop_ids))
    assert isinstance(json.loads(tokenizer.decode(tokens)), list)


@needs_llama
@pytest.mark.slow
def test_what_llama_cpp_cannot_do_is_refused_or_given_to_the_usual_engine(engine, base, tmp_path):
    model = served(base, "one")
    with pytest.raises(FieldInvalid, match="context of this base"):
        list(engine.generate(model, Generation(PROMPT * 300, 4)))
    with pytest.raises(FieldInvalid, match="lie between"):
        list(engine.generate(model, Generation((99_999,), 4)))
    other = tmp_path / "other"
    shutil.copytree(base / "base", other)
    (other / "config.json").write_text(json.dumps(json.loads((other / "config.json").read_text()) | {"model_type": "gpt2"}))
    with pytest.raises(ModelNotAllowed, match="LUTHIER_ENGINE"):
        list(engine.generate(ServedModel("model_x", other, None), Generation(PROMPT, 4)))
    broken = tmp_path / "broken"
    shutil.copytree(base / "one", broken)
    (broken / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactCorrupt):
        list(engine.generate(ServedModel("model_y", base / "base", broken), Generation(PROMPT, 4)))
    (found,) = engine.classify(ServedClassifier("model_c", base, None), [Classification(text="abc")])
    assert found.classes == tuple("0123456789")
    assert engine.state()["usual"]["state"] == "ready"
