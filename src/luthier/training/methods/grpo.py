"""Group relative policy optimisation: sample several answers to a question, and make likelier those that beat their group.

Shao et al. 2024, https://arxiv.org/abs/2402.03300. For G answers o_i to one question with rewards r_i (a grader's scores):

- advantage  A_i = (r_i - mean(r)) / (std(r) + 1e-4), std with n - 1;  or, `scale: none`, A_i = r_i - mean(r), as Dr. GRPO
  proposes (https://arxiv.org/abs/2503.20783): dividing favours questions that are too easy or too hard.
- per token  l_t = -min(rho_t * A_i, clip(rho_t, 1 - epsilon_low, 1 + epsilon_high) * A_i) + beta * k3_t,
  rho_t = pi(o_t) / pi_old(o_t) with pi_old the model that sampled (PPO's clip, https://arxiv.org/abs/1707.06347; the higher
  upper bound is DAPO's, https://arxiv.org/abs/2503.14476), and k3_t = exp(d) - d - 1, d = log ref(o_t) - log pi(o_t), the
  unbiased estimate of the divergence from the base (http://joschu.net/blog/kl-approx.html).
- the step's loss: `token`, the mean over all its tokens (DAPO); `sequence`, the mean over answers of their means (the paper,
  eq. 3); `constant`, the sum over answers * max_new_tokens (Dr. GRPO).

The policy is the one that is sampled: its logits are divided by the temperature, in old, new and reference alike. Answers
are drawn by the decoder that serves, which also tells how likely each token was; a forward pass over some of them must agree.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from luthier.datasets.packing import PassLimits, grouped
from luthier.graders import grade
from luthier.graders.judging import Judge, Words
from luthier.jobs.spec import GrpoSpec
from luthier.modeling.types import Packed, Sampling
from luthier.training.batches import Row, Rows, pack
from luthier.training.failures import AttemptFailed
from luthier.training.method import Batch, Engine, Method, OnPass, Step, Tally
from luthier.training.methods.groups import row_sums, rows_of_tokens
from luthier.training.methods.judges import Bench
from luthier.training.methods.judges import Judge as BaseJudge

if TYPE_CHECKING:
    from torch import Tensor


_STATE_FILE = "answers.json"
_LEAST_STD = 1e-4
_ROUND = 32
_MOST_GAP = 1.0
"""Nats a token, in the mean; rounding gives a hundredth of it."""


@dataclass(frozen=True)
class Answer:
    """A sampled answer with the question before it."""

    ids: Sequence[int]
    """Question and answer, with the end of turn if the model gave one."""
    answer_at: int
    """Where the answer starts in `ids`."""
    old_logps: Sequence[float]
    """Of each token of the answer, as the sampler said."""
    reward: float
    advantage: float
    base_logps: Sequence[float] = ()
    """The reference's; only where the divergence counts."""

    def is_whole(self, spec: GrpoSpec, context: int) -> bool:
        """Whether a checkpoint's answer is one that could be learned from."""
        count = len(self.ids) - self.answer_at
        numbers = [*self.old_logps, *self.base_logps, self.reward, self.advantage]
        return (
            1 <= self.answer_at <= len(self.ids) <= context
            and len(self.old_logps) == count
            and len(self.base_logps) == (count if spec.beta else 0)
            and all(map(math.isfinite, numbers))
        )

    @property
    def row(self) -> Row:
        return Row(self.ids, range(self.answer_at - 1, len(self.ids) - 1))


@dataclass(frozen=True)
class _Round:
    """The answers that some steps in a row learn from."""

    first_step: int
    answers: Sequence[Answer]


_ROUND_OF = TypeAdapter[_Round | None](_Round | None)


@dataclass
class Grpo(Method):
    """A unit is a question."""

    rising_loss_is_bad = False

    rows: Rows
    """The questions alone; no token of theirs carries loss."""
    items: Sequence[Mapping[str, Any]]
    """What the grader may look at beside the answer, by question."""
    spec: GrpoSpec
    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]
    context: int
    words: Words | None = None
    """How the base that is trained is asked as a judge; only where the grader asks one."""
    judges: Mapping[str, BaseJudge] = field(default_factory=dict[str, BaseJudge])
    """Other bases that judge, by the names that the grader has for them."""
    _round: _Round | None = None
    _told: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        return min(self.context, self.rows.longest + self.spec.max_new_tokens)

    def unit(self, number: int) -> list[Row]:
        question = self.rows[number].ids
        room = min(self.context - len(question), self.spec.max_new_tokens)
        ids = [*question, *[question[-1]] * room]
        return [Row(ids, range(len(question) - 1, len(ids) - 1))] * self.spec.group_size

    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        self._told = Tally()
        answers = self._answers(engine, step, limits)
        self._tell(answers)
        weights = token_weights([len(answer.old_logps) for answer in answers], self.spec)
        # Without an advantage and without a divergence an answer has no gradient, but its tokens count in the mean.
        useful = [place for place, answer in enumerate(answers) if answer.advantage or self.spec.beta]
        for places in grouped(useful, lambda place: len(answers[place].ids), limits):
            part = [answers[place] for place in places]
            packed = self._packed([answer.row for answer in part])
            yield Batch(packed, partial(self._loss, part, [weights[place] for place in places]))

    def metrics(self) -> Mapping[str, float]:
        """Rewards, how often questions had answers of different worth, lengths; clipped share and divergence a token."""
        return self._told.means()

    def validation_loss(self, engine: Engine, limits: PassLimits, on_pass: OnPass) -> float:
        """Less the mean reward of the most likely answers, one to each question."""
        self._told = Tally()
        rewards: list[float] = []
        for start in range(0, len(self), _ROUND):
            on_pass(start / len(self))
            numbers = range(start, min(len(self), start + _ROUND))
            sampling = Sampling(self.spec.max_new_tokens, stop_ids=self.stop_ids)
            completions = engine.generate([self.rows[number].ids for number in numbers], sampling)
            judge = self._judge(engine, limits)
            rewards.extend(self._reward(n, answer.token_ids, judge) for n, answer in zip(numbers, completions, strict=True))
        mean = statistics.fmean(rewards)
        self._told.count("reward", rewards)
        return -mean

    def seat(self, judges: Mapping[str, BaseJudge]) -> None:
        self.judges = judges

    def save(self, folder: Path) -> None:
        (folder / _STATE_FILE).write_text(json.dumps(None if self._round is None else asdict(self._round)), "utf-8")

    def load(self, folder: Path) -> None:
        """Raises: ValueError for answers that no run of this method gave."""
        try:
            read = _ROUND_OF.validate_python(json.loads((folder / _STATE_FILE).read_text("utf-8")))
        except (OSError, RecursionError) as error:
            raise ValueError("the sampled answers are missing or not JSON") from error
        if read is not None and not self._is_whole(read):
            raise ValueError("the sampled answers do not belong to this run")
        self._round = read

    def _is_whole(self, read: _Round) -> bool:
        groups, rest = divmod(len(read.answers), self.spec.group_size)
        return groups > 0 and rest == 0 and all(answer.is_whole(self.spec, self.context) for answer in read.answers)

    # -- sampling --------------------------------------------------------------------------------------------------

    def _answers(self, engine: Engine, step: Step, limits: PassLimits) -> Sequence[Answer]:
        """Those of the round that this step belongs to; sampled anew where a round begins."""
        first = step.before - step.before % self.spec.updates_per_batch
        if self._round is None or self._round.first_step != first:
            answers = self._sampled(engine, step, limits)
            if self.spec.beta:
                answers = self._with_base(engine, answers, limits)
            self._round = _Round(first, answers)
        return self._round.answers

    def _sampled(self, engine: Engine, step: Step, limits: PassLimits) -> list[Answer]:
        asked = [number for number in step.numbers for _ in range(self.spec.group_size)]
        sampling = Sampling(self.spec.max_new_tokens, self.spec.temperature, seed=step.seed, stop_ids=self.stop_ids, logps=True)
        questions = [self.rows[number].ids for number in asked]
        completions = list(engine.generate(questions, sampling))
        judge = self._judge(engine, limits)
        rewards = [self._reward(number, each.token_ids, judge) for number, each in zip(asked, completions, strict=True)]
        values = advantages(rewards, self.spec)
        return [
            Answer([*question, *each.token_ids, *stop_of(each.stop_id)], len(question), each.logps, reward, value)
            for question, each, reward, value in zip(questions, completions, rewards, values, strict=True)
        ]

    def _reward(self, number: int, answer: Sequence[int], judge: Judge | None) -> float:
        return grade(self.spec.grader, self.decode(answer), self.items[number], judge).value

    def _judge(self, engine: Engine, limits: PassLimits) -> Judge | None:
        return None if self.words is None else Bench(BaseJudge(engine, self.words, self.context), limits, self.judges)

    def _with_base(self, engine: Engine, answers: Sequence[Answer], limits: PassLimits) -> list[Answer]:
        found: list[Answer] = []
        with engine.adapter_off():
            for part in grouped(answers, lambda answer: len(answer.ids), limits):
                logp_N = engine.logprobs(self._packed([answer.row for answer in part]), training=False)
                each = logp_N.split([len(answer.old_logps) for answer in part])
                found += [replace(answer, base_logps=logp_A.tolist()) for answer, logp_A in zip(part, each, strict=True)]
        return found

    def _packed(self, rows: Sequence[Row]) -> Packed:
        packed = pack(rows)
        return Packed(packed.ids_T, packed.lengths, packed.loss_at_N, self.spec.temperature)

    def _tell(self, answers: Sequence[Answer]) -> None:
        rewards = [answer.reward for answer in answers]
        size = self.spec.group_size
        groups = [rewards[start : start + size] for start in range(0, len(rewards), size)]
        self._told.count("reward", rewards)
        self._told.count("reward_std", [statistics.stdev(group) for group in groups])
        self._told.count("mixed_groups", [float(len(set(group)) > 1) for group in groups])
        self._told.count("answer_tokens", [float(len(answer.old_logps)) for answer in answers])

    # -- the loss --------------------------------------------------------------------------------------------------

    def _loss(self, answers: Sequence[Answer], weights: Sequence[float], logp_N: Tensor) -> Tensor:
        counts = [len(answer.old_logps) for answer in answers]
        row_N = rows_of_tokens(logp_N, counts)
        old_N = logp_N.new_tensor([logp for answer in answers for logp in answer.old_logps])
        self._see_gap((logp_N.detach() - old_N).abs())
        if self.spec.updates_per_batch == 1:
            old_N = logp_N.detach()  # the very model that sampled: a ratio of 1 without the rounding of the decoder
        advantage_N = logp_N.new_tensor([answer.advantage for answer in answers])[row_N]
        loss_N, clipped_N = policy_losses(logp_N, old_N, advantage_N, self.spec)
        self._told.add("clipped", clipped_N.float())
        if self.spec.beta:
            divergence_N = k3(logp_N, logp_N.new_tensor([logp for answer in answers for logp in answer.base_logps]))
            self._told.add("divergence", divergence_N)
            loss_N = loss_N + self.spec.beta * divergence_N
        return (row_sums(loss_N, counts) * logp_N.new_tensor(weights)).sum()

    def _see_gap(self, gap_N: Tensor) -> None:
        """Raises: AttemptFailed where the model that learns is not the one that answered."""
        self._told.add("policy_gap", gap_N)
        if gap_N.numel() and float(gap_N.mean()) > _MOST_GAP:
            raise AttemptFailed(
                "crashed",
                f"Sampled tokens are {float(gap_N.mean()):.2f} nats off what the training pass says of them.",
                "Lower `train.learning_rate` or `grpo.updates_per_batch`; at one update it is a fault: report it.",
            )


def stop_of(stop_id: int | None) -> list[int]:
    """The end of turn is part of what the model chose; an answer that was cut has none."""
    return [] if stop_id is None else [stop_id]


def advantages(rewards: Sequence[float], spec: GrpoSpec) -> list[float]:
    """What each answer is worth beside its group; groups of `group_size` lie one after the other.

    >>> from luthier.graders.types import StringCheck
    >>> spec = GrpoSpec(grader=StringCheck(reference="x"), group_size=4, scale="none")
    >>> advantages([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], spec)
    [0.5, -0.5, -0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    found: list[float] = []
    for start in range(0, len(rewards), spec.group_size):
        group = rewards[start : start + spec.group_size]
        mean = statistics.fmean(group)
        divisor = statistics.stdev(group) + _LEAST_STD if spec.scale == "std" else 1.0
        found += [(reward - mean) / divisor for reward in group]
    return found


def token_weights(counts: Sequence[int], spec: GrpoSpec) -> list[float]:
    """What a token of each answer counts in the step's loss. counts: tokens of the answers.

    >>> from luthier.graders.types import StringCheck
    >>> spec = GrpoSpec(grader=StringCheck(reference="x"), normalise="sequence")
    >>> token_weights([1, 4], spec)
    [0.5, 0.125]
    """
    if spec.normalise == "sequence":
        return [1 / (len(counts) * count) for count in counts]
    if spec.normalise == "constant":
        return [1 / (len(counts) * spec.max_new_tokens)] * len(counts)
    return [1 / sum(counts)] * len(counts)


def policy_losses(logp_N: Tensor, old_N: Tensor, advantage_N: Tensor, spec: GrpoSpec) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss of each token, and whether the bound took its gradient away. All shape (N,)."""
    ratio_N = (logp_N - old_N).exp()
    bounded_N = ratio_N.clamp(1 - spec.epsilon_low, 1 + spec.epsilon_high)
    free_N, held_N = -ratio_N * advantage_N, -bounded_N * advantage_N
    return free_N.maximum(held_N), held_N > free_N


def k3(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """Schulman's estimate of the divergence of the model from the reference, a token; never below 0.

    >>> import torch
    >>> k3(torch.tensor([-1.0]), torch.tensor([-1.0])).item()
    0.0
    """
    difference_N = reference_N - logp_N
    return difference_N.exp() - difference_N - 1
