"""An answer depends on its prompt alone."""

import random

import pytest
import torch

from luthier.modeling.engines import open_engine
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape, Packed, Sampling

ARCHITECTURES = ["llama", "qwen2", "gpt_neox", "mistral", "gemma2"]


def prompts_of(count=11, seed=0):
    draw = random.Random(seed)
    return [[draw.randrange(2, 61) for _ in range(draw.randint(1, 20))] for _ in range(count)]


@pytest.fixture
def engine_of(random_base):
    return lambda kind="llama": PlainEngine(random_base(kind), LoraShape(4, 8), seed=0)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_answers_do_not_depend_on_the_batch_and_are_those_of_transformers(engine_of, kind):
    engine = engine_of(kind)
    prompts, sampling = prompts_of(), Sampling(max_new_tokens=16, stop_ids=frozenset({1}))
    together = engine.generate(prompts, sampling)
    alone = [engine.generate([prompt], sampling)[0] for prompt in prompts]
    assert together == alone
    for prompt, completion in zip(prompts, alone, strict=True):
        ids = torch.tensor([prompt])
        theirs = engine.base.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        expected = theirs[0, len(prompt) :].tolist()
        assert list(completion.token_ids) == [token for token in expected if token != 1]
        assert completion.finish_reason == ("stop" if 1 in expected else "length")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_the_side_of_the_padding_does_not_matter(engine_of, kind):
    model = engine_of(kind).base.model
    row, pad = [5, 9, 33, 2, 17, 40, 8, 21], [0] * 5
    right = torch.tensor([row + pad]), torch.tensor([[1] * 8 + [0] * 5]), torch.arange(13)[None]
    left = torch.tensor([pad + row]), torch.tensor([[0] * 5 + [1] * 8]), torch.tensor([[0] * 5 + list(range(8))])
    with torch.no_grad():
        logits = [model(input_ids=ids, attention_mask=mask, position_ids=at).logits[0] for ids, mask, at in (right, left)]
        bare = model(input_ids=torch.tensor([row])).logits[0]
    assert torch.allclose(logits[0][:8], bare, atol=1e-5)
    assert torch.allclose(logits[1][5:], bare, atol=1e-5)


def test_a_seed_gives_the_same_sample_and_neighbours_do_not_change_it(engine_of):
    engine = engine_of()
    sampling = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.9, seed=3)
    prompts = prompts_of()
    first = engine.generate(prompts, sampling)
    assert first == engine.generate(prompts, sampling)
    assert first[0] == engine.generate(prompts[:1], sampling)[0]
    assert first != engine.generate(prompts, Sampling(max_new_tokens=12, temperature=1.5, top_p=0.9, seed=4))
    without_seed = Sampling(max_new_tokens=30, temperature=2.0)
    assert engine.generate(prompts[:1], without_seed) != engine.generate(prompts[:1], without_seed)


def test_a_tiny_top_p_or_temperature_is_greedy(engine_of):
    engine = engine_of()
    greedy = engine.generate(prompts_of(), Sampling(max_new_tokens=8))
    assert engine.generate(prompts_of(), Sampling(max_new_tokens=8, temperature=1.0, top_p=1e-9, seed=0)) == greedy
    assert engine.generate(prompts_of(), Sampling(max_new_tokens=8, temperature=1e-6, seed=0)) == greedy


def test_samples_follow_the_probabilities(engine_of):
    engine = engine_of()
    probability_V = engine.logits([7, 8, 9])[-1].softmax(0)
    drawn = engine.generate([[7, 8, 9]] * 3000, Sampling(max_new_tokens=1, temperature=1.0, seed=0))
    counts_V = torch.zeros(61)
    for completion in drawn:
        counts_V[completion.token_ids[0]] += 1
    assert (counts_V / 3000 - probability_V).abs().max() < 0.04


def test_top_p_draws_from_the_likeliest_only(engine_of):
    engine = engine_of()
    probability_V, id_V = engine.logits([7, 8, 9])[-1].softmax(0).sort(descending=True)
    allowed = set(id_V[: int((probability_V.cumsum(0) < 0.5).sum()) + 1].tolist())
    drawn = engine.generate([[7, 8, 9]] * 300, Sampling(max_new_tokens=1, temperature=1.0, top_p=0.5, seed=0))
    assert {completion.token_ids[0] for completion in drawn} == allowed


def test_a_stop_token_is_not_part_of_the_answer(engine_of):
    engine = engine_of()
    first, second = engine.generate([[4, 5, 6]], Sampling(max_new_tokens=2))[0].token_ids
    stopped = engine.generate([[4, 5, 6]], Sampling(max_new_tokens=9, stop_ids=frozenset({second})))[0]
    assert (stopped.token_ids, stopped.finish_reason) == (() if first == second else (first,), "stop")


def test_an_answer_ends_where_the_context_ends(engine_of):
    engine = engine_of()
    completion = engine.generate([[5] * 90], Sampling(max_new_tokens=50))[0]
    assert (len(completion.token_ids), completion.finish_reason) == (6, "length")
    assert engine.generate([[5]], Sampling(max_new_tokens=0))[0].token_ids == ()


@pytest.mark.parametrize("prompt", [[], [61], [-1], [5] * 96])
def test_a_prompt_that_cannot_be_answered_is_refused(engine_of, prompt):
    with pytest.raises(ValueError, match="prompt"):
        engine_of().generate([prompt], Sampling(max_new_tokens=1))


def test_more_prompts_than_a_batch_holds_come_back_in_order(engine_of):
    engine = engine_of()
    prompts = prompts_of(70, seed=3)
    together = engine.generate(prompts, Sampling(max_new_tokens=3))
    assert together == [engine.generate([prompt], Sampling(max_new_tokens=3))[0] for prompt in prompts]


@pytest.mark.parametrize(("temperature", "prefer"), [(0.0, "plain"), (1.0, "fast"), (0.7, "plain"), (0.7, "fast")])
def test_how_likely_drawn_tokens_were_is_what_a_forward_pass_says(random_base, temperature, prefer):
    engine = open_engine(random_base(), LoraShape(4, 8), 0, prefer)
    torch.nn.init.normal_(next(iter(reversed(engine.parameters.values()))), generator=torch.Generator().manual_seed(5))
    prompts = prompts_of(5)
    sampling = Sampling(max_new_tokens=14, temperature=temperature, seed=3, stop_ids=frozenset({1, 7, 9}), logps=True)
    for prompt, completion in zip(prompts, engine.generate(prompts, sampling), strict=True):
        answer = [*completion.token_ids, *([] if completion.stop_id is None else [completion.stop_id])]
        assert (completion.stop_id in {1, 7, 9}) == (completion.finish_reason == "stop")
        at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        packed = Packed([*prompt, *answer], [len(prompt) + len(answer)], list(at), temperature or 1.0)
        assert torch.allclose(engine.logprobs(packed, training=False), torch.tensor(completion.logps), atol=2e-5, rtol=0)
