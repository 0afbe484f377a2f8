"""Evaluation, checks, and what is left in results/, on the bigram engine."""

import json
import math

import pytest
import torch
import yaml

from luthier.datasets.formats import Example
from luthier.datasets.packing import PassLimits
from luthier.jobs import automatic
from luthier.jobs.spec import EvaluateSpec, RunSpec
from luthier.modeling.types import Completion
from luthier.training import export
from luthier.training.checks import check_adapter
from luthier.training.evaluate import Answer, HeldOut, Question, Room, Sides, compare, questions_of, right_answers, same_answer
from luthier.training.failures import AttemptFailed
from luthier.training.health import Best
from luthier.training.method import mean_loss
from luthier.training.methods import sft
from luthier.training.plan import Fixed, plan_of, resolved
from luthier.training.state import TrainState

LIMITS = PassLimits(4, 64)


class Letters:
    """A renderer in which a token is a letter and 1 ends an answer."""

    stop_ids = frozenset({1})

    def render(self, example, max_len=None):
        ids = [*self._ids(example.prompt), *self._ids(example.completion), 1]
        loss = [False] * len(example.prompt) + [True] * (len(example.completion) + 1)
        return type("Rendered", (), {"ids": ids, "loss": loss, "truncated": False})

    def target(self, example):
        return self._ids(example.prompt), example.completion

    def decode(self, ids):
        return "".join(chr(ord("a") + token - 2) for token in ids)

    def _ids(self, text):
        return [2 + ord(letter) - ord("a") for letter in text]


@pytest.fixture
def engine(bench):
    return bench.attempt().engine


def test_the_validation_loss_is_the_mean_over_all_tokens_whatever_the_passes(bench, engine):
    losses = {mean_loss(engine, sft.Sft(bench.rows), PassLimits(rows, 1000), lambda _: None) for rows in (1, 3, 22)}
    assert max(losses) - min(losses) < 1e-6


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (" Paris\n", "Paris", True),
        ("paris", "Paris", False),
        ('{"b":2,"a":[1, 2]}', '{"a": [1,2], "b": 2}', True),
        ('{"a": 1', '{"a": 1}', False),
        ("1.0", "1", False),  # a number is compared as it is written
        ("[" * 10_000, "[]", False),
        ("", "", True),
    ],
)
def test_an_answer_is_right_when_it_is_equal_or_equal_as_json(answer, expected, same):
    assert same_answer(answer, expected) is same


def test_base_and_tuned_model_answer_the_same_questions(bench):
    examples = [Example(prompt="ab", completion="cd"), Example(prompt="ba", completion="cd")]
    letters = Letters()
    made = bench.attempt()
    engine = made.engine
    engine.base_VV.zero_()  # the base says nothing but the first token, for ever
    with torch.no_grad():  # the adapter says b -> c -> d -> end, and a -> c
        engine.a_VR.zero_()
        engine.b_RV.zero_()
        for place, (last, following) in enumerate([(3, 4), (4, 5), (5, 1), (2, 4)]):
            engine.a_VR[last, place] = 20
            engine.b_RV[place, following] = 1
    rows = bench.rows.__class__()
    for example in examples:
        rendered = letters.render(example)
        rows.add(rendered.ids, rendered.loss)
    questions = questions_of(examples, letters, 200, Room(64, 0))
    shares: list[float] = []
    found = compare(Sides(engine), letters, HeldOut(sft.Sft(rows), questions, LIMITS), EvaluateSpec(samples=1), shares.append)
    assert found["base"]["exact_match"] == 0.0
    assert found["base"]["loss"] == pytest.approx(math.log(24), abs=1e-5)
    assert found["base"]["perplexity"] == pytest.approx(24, abs=1e-3)
    assert (found["tuned"]["exact_match"], found["tuned"]["f1"], found["tuned"]["stops"]) == (1.0, 1.0, 1.0)
    assert found["tuned"]["json_valid"] is None
    assert found["tuned"]["loss"] < 1e-4
    assert found["samples"] == [{"prompt": "ab", "expected": "cd", "base": found["samples"][0]["base"], "tuned": "cd"}]
    assert (found["rows"], found["answered"]) == (2, 2)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_an_evaluation_without_questions_has_a_loss_and_no_exact_match(bench, engine):
    found = compare(Sides(engine), Letters(), HeldOut(sft.Sft(bench.rows), [], LIMITS), EvaluateSpec(rows=0), lambda _: None)
    assert found["tuned"]["exact_match"] is None
    assert found["samples"] == []


def test_rows_that_leave_no_room_for_an_answer_are_not_asked():
    examples = [Example(prompt="ab" * 50, completion="c"), Example(prompt="a", completion="b")]
    assert [question.expected for question in questions_of(examples, Letters(), 10, Room(64, 0))] == ["b"]


def test_an_answer_longer_than_every_right_one_is_cut(bench, engine):
    asked = []

    def endless(prompts, sampling):
        asked.append(sampling.max_new_tokens)
        return [Completion(tuple([2] * sampling.max_new_tokens), "length") for _ in prompts]

    engine.generate = endless
    questions = questions_of([Example(prompt="a", completion="bcd")], Letters(), 10, Room(64, 0))
    found = compare(Sides(engine), Letters(), HeldOut(sft.Sft(bench.rows), questions, LIMITS), EvaluateSpec(), lambda _: None)
    assert asked == [4 + 32, 4 + 32]
    assert found["tuned"]["stops"] == 0.0
    assert found["tuned"]["exact_match"] == 0.0


def test_answers_that_are_json_are_counted_among_those_that_should_be():
    questions = [Question([], "", expected, 4) for expected in ('{"a": 1}', "[1]", "plain")]
    answers = [Answer('{"a": 1}', stopped=True), Answer("[1", stopped=False), Answer("[1]", stopped=True)]
    found = right_answers(answers, questions)
    assert (found["json_valid"], found["exact_match"]) == (0.5, pytest.approx(1 / 3))


# -- checks ------------------------------------------------------------------------------------------------------------


def save_of(engine):
    return lambda folder: engine.save_adapter(folder, base_model="luthier/tiny", revision="1")


def test_a_trained_adapter_passes_all_checks(bench, tmp_path):
    made = bench.attempt()
    made.run()
    before = {name: weight.detach().clone() for name, weight in made.engine.parameters.items()}
    checks = check_adapter(made.engine, [[2, 3, 4]], save_of(made.engine), tmp_path / "final")
    assert checks.as_json() == {
        "forgetting": None,
        "finite": True,
        "changes_logits": True,
        "max_logit_change": checks.max_logit_change,
        "loads_again": True,
        "same_after_reload": True,
        "endings": None,
    }
    checks.require()
    for name, weight in made.engine.parameters.items():
        assert torch.equal(weight, before[name])


def test_an_untrained_adapter_has_no_effect_and_the_advice_says_what_to_raise(engine, tmp_path):
    checks = check_adapter(engine, [[2, 3, 4]], save_of(engine), tmp_path / "final")
    with pytest.raises(AttemptFailed, match=r"largest change of a logit is 0\.0e\+00") as caught:
        checks.require()
    assert caught.value.failure.code == "no_effect"
    assert "learning_rate" in caught.value.failure.hint


def test_weights_that_are_no_numbers_do_not_pass(engine, tmp_path):
    with torch.no_grad():
        engine.b_RV[0, 0] = math.nan
    with pytest.raises(AttemptFailed) as caught:
        check_adapter(engine, [[2, 3, 4]], save_of(engine), tmp_path / "final").require()
    assert caught.value.failure.code == "diverged"


@pytest.mark.parametrize("how", ["nothing is saved", "other weights are saved"])
def test_an_adapter_that_is_another_one_when_loaded_again_does_not_pass(bench, tmp_path, how):
    made = bench.attempt()
    made.run()
    engine = made.engine

    def save(folder):
        if how == "nothing is saved":
            folder.mkdir()
            return
        with torch.no_grad():
            kept = engine.b_RV.clone()
            engine.b_RV.mul_(2)
            engine.save_adapter(folder, base_model="", revision="")
            engine.b_RV.copy_(kept)

    engine.load_adapter = _as_value_error(engine.load_adapter)
    with pytest.raises(AttemptFailed, match="does not give the same answers"):
        check_adapter(engine, [[2, 3, 4]], save, tmp_path / "final").require()


def _as_value_error(load):
    def loading(folder):
        if not (folder / "adapter_model.safetensors").exists():
            raise ValueError("missing")
        load(folder)

    return loading


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_resolved_config_is_a_spec_itself_with_nothing_left_open(bench):
    spec = RunSpec(base_model="luthier/tiny", dataset="a.jsonl", validation_dataset="b.jsonl")
    plan = plan_of(spec, Fixed(8, 4096, 2, "cpu", "fp32"), rows=100, max_seq_len=512, hidden=64)
    attempt = bench.job.attempt(1)
    export.publish_config(attempt, resolved(spec, plan))
    again = RunSpec.model_validate(yaml.safe_load(bench.job.storage.read("attempts/1/results/config.yaml")))
    train = again.train
    assert (train.batch_size, train.epochs, train.eval_steps, train.max_seq_len) == (8, 3, 13, 512)
    assert (train.device, train.precision) == ("cpu", "fp32")
    assert again.model_copy(update={"train": spec.train}) == spec


def test_metrics_hold_a_curve_that_can_be_drawn():
    state = TrainState(Fixed(8, 4096, 2, "cpu", "fp32"), tokens_seen=5000, train_seconds=2.0, best=Best(0.5, 900, 0))
    for step in range(1, 2001):
        state.step = step
        state.see_loss(1 / step)
    metrics = export.metrics_of(state, 100, 123)
    assert len(metrics["loss_curve"]) == 500
    assert (metrics["steps"], metrics["epochs"], metrics["tokens_per_second"]) == (2000, 20.0, 2500.0)
    assert (metrics["eval_loss"], metrics["best_step"], metrics["peak_memory_bytes"]) == (0.5, 900, 123)


def test_numbers_that_json_cannot_carry_are_an_error_of_ours(bench):
    with pytest.raises(ValueError, match="not JSON compliant"):
        export.publish_json(bench.job.attempt(1), "metrics.json", {"loss": math.nan})


def test_a_template_inside_the_tokenizer_config_becomes_a_file_of_its_own(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "final"
    base.mkdir()
    folder.mkdir()
    (base / "tokenizer.json").write_text("{}", "utf-8")
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}), "utf-8")
    export.copy_tokenizer(base, folder)
    assert (folder / "chat_template.jinja").read_text("utf-8") == "{{ messages }}"
    assert sorted(path.name for path in folder.iterdir()) == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (63, 1), (64, 2), (500, 8), (600, 16), (10**6, 16)])
def test_the_automatic_batch_leaves_an_epoch_enough_steps(rows, batch):
    assert automatic.batch_size(rows) == batch


def test_steps_follow_from_epochs_rows_and_accumulation():
    spec = RunSpec.model_validate({"base_model": "b", "dataset": "d", "train": {"epochs": 2, "gradient_accumulation": 3}})
    plan = plan_of(spec, Fixed(4, 4096, 1, "cpu", "fp32"), rows=25, max_seq_len=64, hidden=64)
    assert (plan.rows_per_step, plan.steps_per_epoch, plan.total_steps, plan.eval_steps) == (12, 3, 6, None)


def test_a_pass_takes_less_where_memory_is_scarce_and_the_same_for_small_changes_of_it():
    gib, token = 1024**3, 4 * 24 * (16 * 2048 + 5 * 8192)
    assert automatic.tokens_per_pass(token, on_cpu=True, free_bytes=200 * gib) == 4096
    assert automatic.tokens_per_pass(token, on_cpu=True, free_bytes=9 * gib) == automatic.tokens_per_pass(
        token, on_cpu=True, free_bytes=9 * gib + 10_000_000
    )
    assert automatic.tokens_per_pass(token, on_cpu=True, free_bytes=9 * gib) < 4096
    assert automatic.tokens_per_pass(token, on_cpu=True, free_bytes=0) == 256


def test_what_was_automatic_is_written_down():
    train = {"learning_rate": "auto", "epochs": "auto"}
    spec = RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": "d", "train": train})
    plan = plan_of(spec, Fixed(8, 4096, 2, "cpu", "fp32"), rows=400, max_seq_len=512, hidden=576)
    assert (plan.learning_rate, plan.epochs, plan.total_steps) == (1.3e-3, 4, 200)
    written = resolved(spec, plan)["train"]
    assert (written["learning_rate"], written["epochs"]) == (1.3e-3, 4)
    assert RunSpec.model_validate(resolved(spec, plan)).train.learning_rate == 1.3e-3
