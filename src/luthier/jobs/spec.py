"""RunSpec: the only schema of a run. Every face maps to it; `run.yaml` is one, frozen at submit.

Imports only values, because a trainer on another machine reads it too.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from luthier.values import BaseSource, Frozen, Name, Source, Text, Usd, Whole, plain_text


class TrainSpec(Frozen):
    """How to train. `auto` and None are resolved at the start and written into `results/config.yaml`."""

    epochs: Whole | None = Field(
        default=None, ge=1, le=1000, description="Passes over the data; 3 when `max_steps` is not given either."
    )
    max_steps: Whole | None = Field(default=None, ge=1, le=10_000_000, description="Optimiser steps, instead of `epochs`.")
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="Peak learning rate of AdamW.")
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
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where to train.")
    deterministic: bool = Field(default=True, description="Same seed, same adapter, bit by bit (on a CPU).")
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


class EvaluateSpec(Frozen):
    """What is measured at the end on `validation_dataset`, for the base and for the tuned model."""

    rows: Whole = Field(default=200, ge=0, le=10_000, description="Rows that both models answer, for exact match; 0 skips it.")
    max_new_tokens: Whole = Field(default=256, ge=1, le=8192, description="Longest answer.")
    samples: Whole = Field(default=3, ge=0, le=100, description="Answers kept side by side.")


class Limits(Frozen):
    """Where a job ends by itself, after it has saved a checkpoint."""

    max_cost_usd: Usd | None = None
    max_seconds: Whole | None = Field(default=None, ge=1, le=31_536_000)


class Sources(Frozen):
    """What the names in a spec stood for when it was submitted."""

    dataset: Source
    validation_dataset: Source | None = None
    base: BaseSource


class RunSpec(Frozen):
    """The frozen request that went in."""

    kind: Literal["train"] = "train"
    method: Literal["sft"] = Field(default="sft", description="How it learns: sft = supervised fine-tuning.")
    base_model: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(plain_text)] = Field(
        description="Id of an allowed base model, e.g. `luthier/tiny`."
    )
    dataset: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(plain_text)] = Field(
        description="A dataset id (`ds_...`). In a run by hand: a path beside `run.yaml`."
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
    evaluate: EvaluateSpec = EvaluateSpec()
    limits: Limits = Limits()
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[Text, Field(max_length=512)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    sources: Sources | None = Field(default=None, description="Set by the platform at submit; refused in a request.")

    @property
    def max_cost_micro_usd(self) -> int | None:
        """The job's own limit in integer micro-dollars."""
        usd = self.limits.max_cost_usd
        return None if usd is None else int(Decimal(usd) * 1_000_000)
