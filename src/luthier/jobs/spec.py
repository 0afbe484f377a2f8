"""RunSpec: the only schema of a run. Every face maps to it; `run.yaml` is one, frozen at submit.

Imports only values, because a trainer on another machine reads it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from luthier.graders import Grader
from luthier.values import BaseSource, Frozen, ModelSource, Name, Option, Source, Text, Usd, Whole, micro_usd, plain_text


class TrainSpec(Frozen):
    """How to train. `auto` and None are resolved at the start and written into `results/config.yaml`."""

    epochs: Annotated[Whole, Field(ge=1, le=1000)] | Literal["auto"] | None = Field(
        default=None,
        description="Passes over the data; 3 when `max_steps` is not given either. `auto`: more of them for few rows.",
    )
    max_steps: Whole | None = Field(default=None, ge=1, le=10_000_000, description="Optimiser steps, instead of `epochs`.")
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = Field(
        default=2e-4, description="Peak learning rate of AdamW. `auto`: by the width of the base."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Shape of the learning rate after the warm-up."
    )
    warmup_steps: Whole = Field(default=0, ge=0, le=1_000_000, description="Steps in which the learning rate rises from 0.")
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        default="auto", description="Rows of one forward pass."
    )
    gradient_accumulation: Whole = Field(default=1, ge=1, le=4096, description="Forward passes of one optimiser step.")
    max_seq_len: Whole | None = Field(
        default=None, ge=16, le=1_048_576, description="Longer rows are cut; the base's context by default."
    )
    packing: bool = Field(default=True, description="Lay rows end to end without padding; they never see each other.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6, description="Gradients are scaled down to this norm.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Of the frozen base; adapter weights are always fp32."
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        default="none",
        description="Hold the frozen base in fewer bits: 8bit takes about half the memory of bf16, on a CPU or CUDA; "
        "4bit (QLoRA, NF4) a quarter, on CUDA.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where to train.")
    deterministic: bool = Field(default=True, description="Same seed, same adapter, bit by bit (on a CPU, alone in its trainer).")
    eval_steps: Whole | None = Field(
        default=None, ge=1, le=10_000_000, description="Measure the validation loss this often; once an epoch by default."
    )
    save_steps: Whole = Field(default=100, ge=1, le=10_000_000, description="Save a checkpoint this often (and every 5 minutes).")
    early_stopping_patience: Whole | None = Field(
        default=None, ge=1, le=1000, description="Stop after this many evaluations without a better validation loss."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give `epochs` or `max_steps`, not both")
        if self.max_steps is not None:
            for name, value in (("warmup_steps", self.warmup_steps), ("eval_steps", self.eval_steps or 0)):
                if value > self.max_steps:
                    raise ValueError(f"`{name}` ({value}) is more than `max_steps` ({self.max_steps})")
        return self


LinearLayer = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraSpec(Frozen):
    """Which weights learn, and how strongly. https://arxiv.org/abs/2106.09685"""

    rank: Whole = Field(default=16, ge=1, le=512, description="Inner width r. Adapter size grows with it.")
    alpha: Whole = Field(default=32, ge=1, le=4096, description="The update is scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the adapter's inputs that is zeroed in training.")
    targets: Literal["all-linear"] | Annotated[tuple[LinearLayer, ...], Field(min_length=1, strict=False)] = Field(
        default="all-linear", description="Linear layers that learn."
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) instead. https://arxiv.org/abs/2312.03732")


Method = Literal["sft", "dpo", "orpo", "kto", "grpo", "classifier"]


class DpoSpec(Frozen):
    """Direct preference optimisation. https://arxiv.org/abs/2305.18290"""

    beta: float = Field(default=0.1, gt=0, le=100, description="How close to stay to the base; for ipo the paper's tau.")
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        default="sigmoid", description="ipo: https://arxiv.org/abs/2310.12036, hinge: https://arxiv.org/abs/2305.10425"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Share of pairs that are taken to be the wrong way round (sigmoid only)."
    )
    sft_weight: float = Field(
        default=0.0, ge=0, le=100, description="Times the mean NLL of the chosen answer. https://arxiv.org/abs/2404.19733"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"`label_smoothing` is for the loss sigmoid, not for {self.loss}")
        return self


class OrpoSpec(Frozen):
    """Odds ratio preference optimisation, without a reference. https://arxiv.org/abs/2403.07691"""

    beta: float = Field(default=0.1, gt=0, le=100, description="Weight of the odds ratio beside the NLL; the paper's lambda.")


class KtoSpec(Frozen):
    """Learning from single answers, each good or bad. https://arxiv.org/abs/2402.01306"""

    beta: float = Field(default=0.1, gt=0, le=100, description="How close to stay to the base.")
    desirable_weight: float = Field(default=1.0, gt=0, le=100, description="Weight of good answers.")
    undesirable_weight: float = Field(default=1.0, gt=0, le=100, description="Weight of bad answers.")


class GrpoSpec(Frozen):
    """Answers are sampled in groups and graded; what beats its group is made likelier. https://arxiv.org/abs/2402.03300"""

    grader: Grader = Field(description="What an answer is worth.")
    group_size: Whole = Field(default=8, ge=2, le=256, description="Answers to each prompt.")
    temperature: float = Field(default=1.0, gt=0, le=10, description="Of sampling.")
    max_new_tokens: Whole = Field(default=256, ge=1, le=32_768, description="Longest answer.")
    beta: float = Field(default=0.0, ge=0, le=100, description="Weight of the divergence (k3) from the base.")
    epsilon_low: float = Field(default=0.2, gt=0, lt=1, description="How far below 1 the ratio to the sampled policy counts.")
    epsilon_high: float = Field(default=0.2, gt=0, le=10, description="How far above 1. https://arxiv.org/abs/2503.14476")
    scale: Literal["std", "none"] = Field(
        default="std", description="Divide advantages by the group's deviation, or not: https://arxiv.org/abs/2503.20783"
    )
    normalise: Literal["token", "sequence", "constant"] = Field(
        default="token", description="Mean over the step's tokens, over its answers' means, or over max_new_tokens (Dr. GRPO)."
    )
    updates_per_batch: Whole = Field(default=1, ge=1, le=64, description="Optimiser steps on the same answers.")


DEFAULT_CLASSIFIER = "mnist-cnn"
_MOST_OPTIONS = 32


class ClassifierSpec(Frozen):
    """A model of the registry of classifiers, trained from scratch, and its own options, e.g. `hidden_size: 128`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Option] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    model: Name = Field(
        default=DEFAULT_CLASSIFIER, description="Name in the registry, e.g. `mnist-cnn` or `logistic-regression`."
    )

    @model_validator(mode="after")
    def _has_few_options(self) -> Self:
        for name in self.options:
            if not (name.isidentifier() and name.isascii() and len(name) <= 64):
                raise ValueError("an option's name is a word of at most 64 letters, digits and underscores")
        if len(self.options) > _MOST_OPTIONS:
            raise ValueError(f"at most {_MOST_OPTIONS} options")
        return self

    @property
    def options(self) -> dict[str, Option]:
        """All but `model`: what they may be is for the model to say."""
        return self.__pydantic_extra__


class EvaluateSpec(Frozen):
    """What is measured at the end on `validation_dataset`, for the base and for the tuned model; all of it in a run of the
    kind evaluate."""

    rows: Whole = Field(default=200, ge=0, le=10_000, description="Rows that both models answer, for exact match; 0 skips it.")
    max_new_tokens: Whole = Field(default=256, ge=1, le=8192, description="Longest answer.")
    samples: Whole = Field(default=3, ge=0, le=100, description="Answers kept side by side.")
    automatic: bool = Field(
        default=True, description="Whether a training is followed by this, and by a run that compares it with today's Production."
    )


_PRECISIONS = {
    "merged": ("base", "bf16", "fp32"),
    "gguf": ("base", "f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"),
    "gguf-adapter": ("base", "f32", "f16"),
}
"""What a format can be stored as."""


class ExportSpec(Frozen):
    """What a model is made into."""

    format: Literal["adapter", "merged", "gguf", "gguf-adapter"] = Field(
        description="adapter: PEFT's files, for use beside the base. merged: the base with the adapter added to its weights. "
        "gguf: that as one file for llama.cpp and Ollama. gguf-adapter: the adapter alone, for llama.cpp beside the base's file."
    )
    precision: Literal["base", "bf16", "fp32", "f32", "f16", "q8_0", "q4_k_m", "q5_k_m", "q6_k"] = Field(
        default="base",
        description="Of merged weights `base` (as the base's files have them), bf16 or fp32; of gguf f16 (`base`), f32, q8_0, "
        "and where llama.cpp is installed q6_k, q5_k_m or q4_k_m; of gguf-adapter f32 (`base`) or f16.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.format == "adapter" and self.precision != "base":
            raise ValueError("an adapter is exported as it was trained: `precision` is for the other formats")
        known = _PRECISIONS.get(self.format)
        if known and self.precision not in known:
            raise ValueError(f"`precision` of {self.format} is one of {', '.join(known)}")
        return self


class Limits(Frozen):
    """Where a job ends by itself, after it has saved a checkpoint."""

    max_cost_usd: Usd | None = None
    max_seconds: Whole | None = Field(default=None, ge=1, le=31_536_000)


def _absent(section: object) -> bool:
    # A section that is not there is not written either: a run.yaml looks, and hashes, as it did before there were sections.
    return section is None


def _none_in(value: Any) -> bool:
    return not value


class Sources(Frozen):
    """What the names in a spec stood for when it was submitted."""

    dataset: Source | None = Field(default=None, description="An export has none.")
    validation_dataset: Source | None = None
    base: BaseSource
    judges: dict[str, BaseSource] = Field(
        default_factory=dict,
        exclude_if=_none_in,
        description="Other bases that graders ask, by the names that these have for them.",
    )
    model: ModelSource | None = Field(default=None, exclude_if=_absent)
    against: ModelSource | None = Field(default=None, exclude_if=_absent)


def _left_out() -> Any:
    return None


def _is_of_model(info: ValidationInfo) -> bool:
    return info.data.get("kind") in OF_MODELS


def _of_model_or_given(value: Any, given: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """What is given. A run of a model may leave it to the platform: "" until submit, and in an export for ever."""
    return "" if value in (None, "") and _is_of_model(info) else given(value)


def _dataset_given(dataset: Any) -> Any:
    if dataset is None:
        raise PydanticCustomError("missing", "Field required")
    return dataset


def _model_of_kind(model: Any, info: ValidationInfo) -> Any:
    if model is None and _is_of_model(info):
        raise PydanticCustomError("missing", "Field required")
    return model


def _empty(text: str) -> bool:
    return text == ""


def _base_or_model(base_model: Any, info: ValidationInfo) -> Any:
    """What is given; a classifier from scratch has no base, and the name of its model stands there."""
    if base_model is not None:
        return base_model
    if info.data.get("method") != "classifier":
        raise PydanticCustomError("missing", "Field required")
    section: ClassifierSpec | None = info.data.get("classifier")
    return section.model if section else DEFAULT_CLASSIFIER


Kind = Literal["train", "fit_test", "evaluate", "export"]
SHORT_KINDS: tuple[Kind, ...] = ("fit_test", "evaluate", "export")
"""They have a slot of their own, and do not wait for what trains."""
OF_MODELS: tuple[Kind, ...] = ("evaluate", "export")
"""They are about a model of the registry, and train nothing."""
_OF_EVALUATION = frozenset({"batch_size", "max_seq_len", "packing", "precision", "quantization", "device", "deterministic"})
"""Fields of `train` that say how rows go through a model."""
_OF_TRAINING: Mapping[str, object] = {"lora": LoraSpec(), "validation_dataset": None, "name": None}
"""Fields that say something only where a model comes out, and what they are when nobody said anything."""

ModelRef = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(plain_text)]


class RunSpec(Frozen):
    """The frozen request that went in."""

    kind: Kind = Field(
        default="train",
        description="fit_test measures memory and speed on the longest rows; evaluate measures a model of the registry on a "
        "dataset; export makes its files. They train nothing.",
    )
    model: Annotated[ModelRef | None, BeforeValidator(_model_of_kind)] = Field(
        default=None, exclude_if=_absent, description="evaluate, export: a model id, a name (its Production), or `name@3`."
    )
    against: ModelRef | None = Field(
        default=None, exclude_if=_absent, description="evaluate: another model on the same base, measured on the same rows."
    )
    export: ExportSpec | None = Field(default=None, exclude_if=_absent, description="Only with the kind export, which needs it.")
    method: Method = Field(
        default="sft",
        description="How it learns: sft from answers, dpo and orpo from pairs, kto from rated answers, grpo from a grader, "
        "classifier from labelled images or texts.",
    )
    classifier: ClassifierSpec | None = Field(default=None, exclude_if=_absent, description="Only with the method classifier.")
    base_model: Annotated[
        str,
        Field(min_length=1, max_length=200),
        AfterValidator(plain_text),
        BeforeValidator(_base_or_model),
        WrapValidator(_of_model_or_given),
    ] = Field(
        default_factory=_left_out,
        exclude_if=_empty,
        description="Id of an allowed base model, e.g. `luthier/tiny`. A classifier learns from texts on one, and without one "
        "from scratch; a `model` brings its own.",
    )
    dataset: Annotated[
        str,
        Field(min_length=1, max_length=4096),
        AfterValidator(plain_text),
        BeforeValidator(_dataset_given),
        WrapValidator(_of_model_or_given),
    ] = Field(
        default_factory=_left_out,
        exclude_if=_empty,
        description="A dataset id (`ds_...`). In a run by hand: a path beside `run.yaml`. evaluate: if it is left out, the "
        "validation dataset of the job that made the model. export: none.",
    )
    validation_dataset: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(plain_text)] | None = Field(
        default=None, description="Held-out rows: validation loss while training, base against tuned at the end."
    )
    name: Name | None = Field(default=None, description="Name of the model that comes out; versions of a name are numbered.")
    hardware: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        default="local-cpu", description="A row of the price book."
    )
    seed: Whole = Field(default=42, ge=0, le=2**32 - 1)
    train: TrainSpec = TrainSpec()
    lora: LoraSpec = LoraSpec()
    dpo: DpoSpec | None = Field(default=None, exclude_if=_absent, description="Only with the method dpo.")
    orpo: OrpoSpec | None = Field(default=None, exclude_if=_absent, description="Only with the method orpo.")
    kto: KtoSpec | None = Field(default=None, exclude_if=_absent, description="Only with the method kto.")
    grpo: GrpoSpec | None = Field(default=None, exclude_if=_absent, description="Only with the method grpo, which needs it.")
    evaluate: EvaluateSpec = EvaluateSpec()
    limits: Limits = Limits()
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[Text, Field(max_length=512)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    sources: Sources | None = Field(default=None, description="Set by the platform at submit; refused in a request.")

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        given = {"model": self.model, "against": self.against, "export": self.export}
        may = {"evaluate": ("model", "against"), "export": ("model", "export")}.get(self.kind, ())
        for name, value in given.items():
            if value is not None and name not in may:
                raise ValueError(f"`{name}` is no field of a run of the kind {self.kind}")
        if self.kind == "export" and self.export is None:
            raise ValueError("the kind export needs the section `export` with a `format`: adapter, merged or gguf")
        if self.kind in OF_MODELS:
            self._trains_nothing()
        return self

    def _trains_nothing(self) -> None:
        """Raises: ValueError for a field that would change nothing in a run of a model."""
        said = {name for name, default in _OF_TRAINING.items() if getattr(self, name) != default}
        steps, usual = self.train.model_dump(), TrainSpec().model_dump()
        reads = _OF_EVALUATION if self.kind == "evaluate" else frozenset[str]()
        said |= {f"train.{name}" for name in usual if name not in reads and steps[name] != usual[name]}
        if self.kind == "export":
            said |= {name for name, given in (("dataset", self.dataset), ("evaluate", self.evaluate != EvaluateSpec())) if given}
        if said:
            raise ValueError(f"`{min(said)}` is no field of a run of the kind {self.kind}: leave it out")

    @model_validator(mode="after")
    def _has_the_section_of_its_method(self) -> Self:
        sections = {"dpo": self.dpo, "orpo": self.orpo, "kto": self.kto, "grpo": self.grpo, "classifier": self.classifier}
        for name, section in sections.items():
            if section is not None and name != self.method:
                raise ValueError(f"`{name}` is a section of the method {name}, but `method` is {self.method}")
        if self.method == "grpo" and self.grpo is None and self.kind != "export":
            raise ValueError("the method grpo needs the section `grpo` with a `grader`")
        if self.classifier is not None and self.base_model != self.classifier.model:
            raise ValueError("`classifier` names a model that is trained from scratch: leave it out, or leave out `base_model`")
        return self

    @property
    def has_base(self) -> bool:
        """Whether an adapter learns on a base model; False for a model from scratch, whose name stands in its place."""
        return self.method != "classifier" or self.base_model != self.classifier_model.model

    @property
    def classifier_model(self) -> ClassifierSpec:
        """The section `classifier`, or its defaults."""
        return self.classifier or ClassifierSpec()

    @property
    def max_cost_micro_usd(self) -> int | None:
        """The job's own limit in integer micro-dollars."""
        usd = self.limits.max_cost_usd
        return None if usd is None else micro_usd(usd)
