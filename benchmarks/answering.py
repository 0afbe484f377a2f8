"""Who answers in `generation.py`: our engine, `transformers.generate` with PEFT, and llama.cpp. Each in a process of its own.

    python benchmarks/answering.py luthier|peft|llama.cpp --adapters 4 --requests 16 --tokens 32

It answers all requests each time a line comes in, and tells how long that took, when the first tokens came, and its memory.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import BENCH
from peers.turns import peak_bytes
from train import SETTINGS

RANK = 16
SHORTEST, LONGEST = 24, 160
"""Tokens of a prompt."""

Answers = tuple[list[list[int]], float]
"""Tokens of each request, and after how many seconds the first of them came: the mean over requests."""


@dataclass(frozen=True)
class Asked:
    """What everybody answers."""

    setting: str
    adapters: int
    requests: int
    tokens: int
    threads: int

    @property
    def base(self) -> Path:
        return SETTINGS[self.setting].folder / "model"

    def folders(self) -> list[Path]:
        """PEFT's, of the adapters."""
        return [BENCH / "adapters" / self.setting / str(number) for number in range(self.adapters)]

    def ggufs(self) -> tuple[Path, list[Path]]:
        """The base and the adapters for llama.cpp."""
        folder = BENCH / "gguf" / self.setting
        return folder / "base-f32.gguf", [folder / f"adapter-{number}-f32.gguf" for number in range(self.adapters)]

    def prompts(self, vocab: int) -> list[list[int]]:
        """The same for everybody."""
        draw = random.Random(7)  # reproducible, no secret
        lengths = range(SHORTEST, LONGEST + 1)
        return [[draw.randrange(10, vocab) for _ in range(draw.choice(lengths))] for _ in range(self.requests)]

    def of(self, adapter: int) -> range:
        """Requests that this adapter answers."""
        return range(adapter, self.requests, self.adapters)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--setting", choices=list(SETTINGS), default="135m")
    for name in ("adapters", "requests", "tokens", "threads"):
        parser.add_argument(f"--{name}", type=int, default=4)
    given = vars(parser.parse_args())
    answer = SIDES[given.pop("side")](Asked(**given))
    for _ in sys.stdin:
        cpu, at = time.process_time(), time.perf_counter()
        answers, first_s = answer()
        took = time.perf_counter() - at
        said = {
            "tokens_per_second": sum(len(each) for each in answers) / took,
            "first_token_s": first_s,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": peak_bytes(),
            "answers": answers,
        }
        print(json.dumps(said), flush=True)
    return 0


def ours(asked: Asked) -> Callable[[], Answers]:
    """All requests in one batch, each with its own adapter."""
    from luthier.modeling.batching import Batch, Member
    from luthier.modeling.generate import Row
    from luthier.modeling.load import load_base
    from luthier.modeling.torch_loader import TorchLoader, passes_on
    from luthier.modeling.types import Sampling

    base, loader = load_base(asked.base, "cpu", "fp32"), TorchLoader("cpu")
    adapters = [loader.adapter(base, asked.base, folder) for folder in asked.folders()]

    def answer() -> Answers:
        clock = Clock(asked.requests)
        batch: Batch[int] = Batch(base, passes_on(base))
        for number, prompt in enumerate(asked.prompts(base.vocab)):
            row = Row(0, prompt, Sampling(asked.tokens), base)
            batch.add(Member(number, row, adapters[number % len(adapters)]))
        while len(batch):
            for number, token in (batch.read() if batch.reads_for else []) + (batch.decode() if batch.decodes_for else []):
                clock.came(number, token.id if token.id is not None else -1)
        return clock.told()

    return answer


def with_peft(asked: Asked) -> Callable[[], Answers]:
    """`set_adapter`, then one call of `generate` with all requests of that adapter as one batch."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folders = asked.folders()
    base: Any = AutoModelForCausalLM.from_pretrained(asked.base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(number))
    model.eval()
    prompts = asked.prompts(base.config.vocab_size)

    @torch.no_grad()
    def answer() -> Answers:
        clock = Clock(asked.requests)
        for number in range(asked.adapters):
            model.set_adapter(str(number))
            longest = max(len(prompts[each]) for each in asked.of(number))
            pads = {each: longest - len(prompts[each]) for each in asked.of(number)}
            ids = torch.tensor([[0] * pad + prompts[each] for each, pad in pads.items()])
            mask = torch.tensor([[0] * pad + [1] * len(prompts[each]) for each, pad in pads.items()])

            def watched(ids_BL: Any, *_: Any, mine: Sequence[int] = asked.of(number), **__: Any) -> Any:
                for each, row in zip(mine, ids_BL[:, -1].tolist(), strict=True):
                    clock.came(each, row)
                return torch.zeros(ids_BL.shape[0], dtype=torch.bool)

            kept = {"max_new_tokens": asked.tokens, "min_new_tokens": asked.tokens, "do_sample": False, "pad_token_id": 0}
            model.generate(input_ids=ids, attention_mask=mask, stopping_criteria=[watched], **kept)
        return clock.told()

    return answer


def with_llama(asked: Asked) -> Callable[[], Answers]:
    """One adapter after the other; all requests of one as sequences side by side, as llama.cpp's own server has them."""
    from luthier.modeling.llama_sequences import PASS, At, Cells, LlamaSequences

    base, adapters = asked.ggufs()
    cells = Cells(asked.requests * (LONGEST + asked.tokens), asked.requests, kept_in="f32")
    llama = LlamaSequences(base, cells, asked.threads)
    loaded = [llama.adapter(path) for path in adapters]
    prompts = asked.prompts(llama.vocab)

    def answer() -> Answers:
        clock = Clock(asked.requests)
        for number, adapter in enumerate(loaded):
            mine = asked.of(number)
            read = [At(id_, each, n, n == len(prompts[each]) - 1) for each in mine for n, id_ in enumerate(prompts[each])]
            coming = list(mine)
            for start in range(0, len(read), PASS):
                for logits_V in llama.decode(adapter, read[start : start + PASS]):
                    clock.came(coming.pop(0), int(logits_V.argmax()))
            for step in range(asked.tokens - 1):
                last = [At(clock.answers[each][-1], each, len(prompts[each]) + step, True) for each in mine]
                for each, token in zip(mine, llama.decode(adapter, last).argmax(1), strict=True):
                    clock.came(each, int(token))
            for each in mine:
                llama.forget(each)
        return clock.told()

    return answer


@dataclass
class Clock:
    """Takes tokens as they come."""

    requests: int
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.answers: list[list[int]] = [[] for _ in range(self.requests)]
        self._firsts_s: list[float] = []

    def came(self, request: int, token: int) -> None:
        if not self.answers[request]:
            self._firsts_s.append(time.perf_counter() - self.began)
        self.answers[request].append(token)

    def told(self) -> Answers:
        return self.answers, sum(self._firsts_s) / len(self._firsts_s)


SIDES = {"luthier": ours, "peft": with_peft, "llama.cpp": with_llama}


def made(asked: Asked, *, ggufs: bool) -> None:
    """Adapters with random weights, and all of it as GGUF where that is wanted; once."""
    _adapters(asked)
    if ggufs:
        _ggufs(asked)


def _adapters(asked: Asked) -> None:
    wanted = [folder for folder in asked.folders() if not (folder / "adapter_config.json").is_file()]
    if not wanted:
        return
    import torch

    from luthier.modeling.adapter_files import Trained, save
    from luthier.modeling.load import load_base
    from luthier.modeling.lora import new_adapter
    from luthier.modeling.types import LoraShape

    base = load_base(asked.base, "cpu", "fp32")
    for folder in wanted:
        number = int(folder.name)
        adapter = new_adapter(base.linears, LoraShape(RANK, 2 * RANK), number, base.device)
        draw = torch.Generator().manual_seed(number)
        for pair in adapter.pairs.values():
            pair.b_OR.data = 0.02 * torch.randn(pair.b_OR.shape, generator=draw)
        save(Trained(adapter, base.linears, asked.setting, "1"), folder)


def _ggufs(asked: Asked) -> None:
    from luthier.modeling import gguf_files
    from luthier.modeling.llama_serving import write_adapter

    base, adapters = asked.ggufs()
    base.parent.mkdir(parents=True, exist_ok=True)
    if not base.is_file():
        gguf_files.write(asked.base, base, asked.setting, "f32")
    for folder, target in zip(asked.folders(), adapters, strict=True):
        if not target.is_file():
            write_adapter(folder, asked.base, target)


if __name__ == "__main__":
    sys.exit(main())
