"""Rows that join and leave a batch, each with its own adapter: every answer is the one it would get alone."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import luthier
from luthier.datasets.rendering import Renderer
from luthier.errors import FieldInvalid
from luthier.modeling.batching import Batch, Member
from luthier.modeling.fast import weights_of
from luthier.modeling.fast_passes import FastPasses
from luthier.modeling.generate import Row, generate
from luthier.modeling.grammar import JsonGuide
from luthier.modeling.kernels import Switch
from luthier.modeling.load import frozen
from luthier.modeling.lora import new_adapter
from luthier.modeling.plain_passes import PlainPasses
from luthier.modeling.torch_loader import passes_on
from luthier.modeling.types import LoraShape, Sampling

TINY = Path(luthier.__file__).parent / "bases" / "tiny"
FAST = ["llama", "qwen2", "qwen3", "mistral", "gemma", "phi3"]
KINDS = [*FAST, "gpt_neox", "gemma2"]
PROMPTS = [[5, 6, 7], [9] * 20, [3], [11, 12, 13, 14, 15, 16, 17], [8, 4]]


SOME = ("q_proj", "qkv_proj", "query_key_value", "down_proj", "dense_4h_to_h")


def by_torch(base):
    """What the fast passes do on a machine without a compiler; `Switch` is turned off around it."""
    return FastPasses(base, weights_of(base))


@pytest.fixture
def no_compiler():
    Switch.native = False
    yield
    Switch.native = True


def adapters_on(base, count):
    """Adapters of different ranks and targets, each of which changes what the base says."""
    made = []
    for number in range(count):
        shape = LoraShape(2 + number, 8, targets=None if number % 2 == 0 else SOME)
        adapter = new_adapter(base.linears, shape, number, torch.device("cpu"))
        generator = torch.Generator().manual_seed(number)
        for pair in adapter.pairs.values():
            pair.b_OR.data = torch.randn(pair.b_OR.shape, generator=generator) * 0.3
        made.append(adapter)
    return made


def plain_answer(base, adapter, prompt, count):
    """Token by token by whole forward passes: no cache, no padding, no batch."""
    base.linears.carry(adapter)
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    base.linears.carry(None)
    return ids[len(prompt) :]


def run(batch, arrivals):
    """Answers by key; row `n` is added before round `arrivals[n][0]`."""
    answers = {number: [] for number in range(len(arrivals))}
    waiting = list(enumerate(arrivals))
    round_ = 0
    while waiting or len(batch):
        while waiting and waiting[0][1][0] <= round_:
            number, (_, prompt, adapter, sampling) = waiting.pop(0)
            batch.add(Member(number, Row(0, prompt, sampling, batch.base), adapter))
        told = (batch.read() if batch.reads_for else []) + (batch.decode() if batch.decodes_for else [])
        for number, token in told:
            if token.id is not None:
                answers[number].append(token.id)
        round_ += 1
    return answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_passes_are_taken_where_they_are_right(random_base, kind):
    assert isinstance(passes_on(random_base(kind)), FastPasses if kind in FAST else PlainPasses)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_answered_as_by_a_plain_forward_pass_with_its_own_adapter(random_base, kind):
    check_rows(random_base(kind), passes_on)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_the_plain_passes_answer_the_same(random_base, kind):
    check_rows(random_base(kind), PlainPasses)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_torch_computes_the_same(random_base, kind):
    check_rows(random_base(kind), by_torch)


def check_rows(base, passes):
    adapters = [None, *adapters_on(base, 4)]
    arrivals = [(3 * n, prompt, adapters[n], Sampling(12 + 3 * n)) for n, prompt in enumerate(PROMPTS)]
    answers = run(Batch(base, passes(base)), arrivals)
    for number, (_, prompt, adapter, sampling) in enumerate(arrivals):
        assert answers[number] == plain_answer(base, adapter, prompt, sampling.max_new_tokens), f"row {number}"


def test_dropping_a_row_changes_no_other(random_base):
    base = random_base()
    adapters = adapters_on(base, 3)
    batch = Batch(base, passes_on(base))
    for number, adapter in enumerate(adapters):
        batch.add(Member(number, Row(0, PROMPTS[number], Sampling(20), base), adapter))
    said = {0: [], 1: [], 2: []}
    for round_ in range(40):
        for number, token in (batch.read() if batch.reads_for else []) + (batch.decode() if batch.decodes_for else []):
            if token.id is not None:
                said[number].append(token.id)
        if round_ == 8:
            batch.drop(1)
            batch.drop(1)
    assert said[0] == plain_answer(base, adapters[0], PROMPTS[0], 20)
    assert said[2] == plain_answer(base, adapters[2], PROMPTS[2], 20)
    assert len(said[1]) < 20
    assert len(batch) == 0


def test_a_long_prompt_is_read_in_pieces_and_answered_the_same(random_base, monkeypatch):
    monkeypatch.setattr("luthier.modeling.batching._PIECE", 7)
    base = random_base()
    prompt = [3 + n % 50 for n in range(40)]
    answers = run(Batch(base, passes_on(base)), [(0, [5, 6], None, Sampling(30)), (1, prompt, None, Sampling(10))])
    assert answers[1] == plain_answer(base, None, prompt, 10)
    assert answers[0] == plain_answer(base, None, [5, 6], 30)


def test_short_prompts_are_read_together_as_far_as_they_fit(random_base, monkeypatch):
    monkeypatch.setattr("luthier.modeling.batching._PIECE", 7)
    base = random_base()
    adapters = adapters_on(base, 2)
    batch = Batch(base, passes_on(base))
    asked = [([5, 6, 7], adapters[0]), ([8, 9], adapters[1]), ([3, 4], None), ([11, 12], adapters[0])]
    for number, (prompt, adapter) in enumerate(asked):
        batch.add(Member(number, Row(0, prompt, Sampling(1), base), adapter))
    read = [batch.read(), batch.read()]
    assert [[number for number, _ in told] for told in read] == [[0, 1, 2], [3]]
    for number, token in read[0] + read[1]:
        prompt, adapter = asked[number]
        assert [token.id] == plain_answer(base, adapter, prompt, 1)


def test_a_row_that_outgrows_its_room_is_answered_the_same(random_base):
    base = random_base()
    answers = run(Batch(base, passes_on(base)), [(0, [5, 6], None, Sampling(90)), (3, [9], None, Sampling(80))])
    assert answers == {0: plain_answer(base, None, [5, 6], 90), 1: plain_answer(base, None, [9], 80)}


def test_columns_that_are_padding_everywhere_are_cut_off(random_base, monkeypatch):
    monkeypatch.setattr("luthier.modeling.plain_passes._SLACK", 4)
    base = random_base()
    batch = Batch(base, PlainPasses(base))
    answers = run(batch, [(0, [9] * 40, None, Sampling(3)), (0, [5, 6], None, Sampling(30))])
    assert answers[1] == plain_answer(base, None, [5, 6], 30)


def test_sampled_rows_draw_as_they_would_alone(random_base):
    base = random_base()
    hot = Sampling(10, temperature=1.0, top_p=0.9, seed=3)
    answers = run(Batch(base, passes_on(base)), [(n, [5, 6, 7], None, hot) for n in range(3)])
    alone = generate(base, [[5, 6, 7]], hot)[0].token_ids
    assert answers == {0: list(alone), 1: list(alone), 2: list(alone)}


def test_log_probabilities_are_told_with_the_likeliest_others(random_base):
    base = random_base()
    batch = Batch(base, passes_on(base))
    batch.add(Member("x", Row(0, [5, 6], Sampling(2, logps=True, top_logps=3), base), None))
    ((_, token),) = batch.read()
    with torch.no_grad():
        logp_V = torch.log_softmax(base.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].float(), 0)
    assert token.logp == pytest.approx(float(logp_V.max()), abs=1e-5)
    assert [place for place, _ in token.top] == logp_V.topk(3).indices.tolist()


def test_an_answer_follows_its_schema_beside_one_that_is_free(tmp_path):
    base = tiny_base(tmp_path)
    schema = json.dumps({"enum": ["yes", "no", "not sure"]})
    stop_ids = Renderer.load(TINY).stop_ids
    sampling = Sampling(60, temperature=1.0, seed=1, stop_ids=stop_ids)
    guided, free = Row(0, [5, 6, 7], sampling, base), Row(0, [5, 6, 7], sampling, base)
    guided.guide = JsonGuide(TINY / "tokenizer.json", stop_ids, schema, base.vocab)
    batch = Batch(base, passes_on(base))
    batch.add(Member("guided", guided, None))
    batch.add(Member("free", free, None))
    said = {"guided": [], "free": []}
    while len(batch):
        for key, token in (batch.read() if batch.reads_for else []) + (batch.decode() if batch.decodes_for else []):
            said[key] += [] if token.id is None else [token.id]
    assert json.loads(Renderer.load(TINY).decode(said["guided"])) in {"yes", "no", "not sure"}
    assert said["free"] == list(generate(base, [[5, 6, 7]], sampling)[0].token_ids)


def test_a_schema_that_cannot_be_followed_is_refused():
    with pytest.raises(FieldInvalid, match="cannot be followed"):
        JsonGuide(TINY / "tokenizer.json", {2}, '{"type": "nonsense"}', 2048)
    with pytest.raises(FieldInvalid, match="characters"):
        JsonGuide(TINY / "tokenizer.json", {2}, '{"title": "%s"}' % ("x" * 70_000), 2048)


def tiny_base(folder):
    """A random model with the shipped tokenizer's vocabulary."""
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(TINY)
    return frozen(AutoModelForCausalLM.from_config(config), torch.device("cpu"))
