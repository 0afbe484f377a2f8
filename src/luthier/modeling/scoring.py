"""How likely a model finds given answers, as an engine process tells it.

```text
POST /v1/score   {"model", "prompt": [ids], "answers": [[ids], ...]}
                 {"logprobs": [...]}, natural-log probability of each whole answer to the prompt
```
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from luthier.errors import FieldInvalid
from luthier.modeling.models import Models

_MOST_ANSWERS = 64


class ScoreRequest(BaseModel):
    """A prompt and answers to it, as tokens."""

    model_config = ConfigDict(strict=True)

    model: str
    prompt: list[int] = Field(min_length=1, max_length=4_194_304)
    answers: list[Annotated[list[int], Field(min_length=1, max_length=65_536)]] = Field(min_length=1, max_length=_MOST_ANSWERS)


def score(models: Models, asked: ScoreRequest) -> list[float]:
    """Of each answer by itself. Raises: NotFound, FieldInvalid, ModelNotAllowed."""
    base, adapter = models.in_torch(asked.model)
    longest = len(asked.prompt) + max(map(len, asked.answers))
    if longest > base.context:
        raise FieldInvalid(f"Prompt and answer have {longest} tokens; the context is {base.context}.", param="prompt")
    if not all(0 <= token < base.vocab for row in (asked.prompt, *asked.answers) for token in row):
        raise FieldInvalid(f"Token ids lie between 0 and {base.vocab - 1}.", param="prompt")
    at = len(asked.prompt) - 1
    found: list[float] = []
    with torch.inference_mode(), base.linears.carrying(adapter, None):
        for answer in asked.answers:
            ids_1T = torch.tensor([[*asked.prompt, *answer]], device=base.device)
            logits_TV: Tensor = base.model(input_ids=ids_1T, use_cache=False).logits[0, at:-1].float()
            logp_A = logits_TV.log_softmax(-1).gather(-1, ids_1T[0, at + 1 :, None])
            found.append(float(logp_A.sum()))
    return found
