"""Random models of a few thousand weights, one of each kind of architecture that has to be right."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.gemma import GemmaConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from luthier.modeling.load import LoadedBase, frozen

VOCAB = 61
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,  # large, so that answers differ and no two tokens are nearly as likely
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**_GROUPED),  # biases
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES),  # one layer for q, k and v, rotary on a part, other names
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=6),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=16),  # norms on queries and keys, heads wider than the model
    "gemma": lambda: GemmaConfig(**_GROUPED, head_dim=8),  # scaled embeddings, norms about 1, another gate
    "phi3": lambda: Phi3Config(**_GROUPED),  # q, k and v in one layer of their own
    "gemma2": lambda: Gemma2Config(**_GROUPED, head_dim=8, sliding_window=6),  # soft caps: only its own attention is right
}


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def random_model() -> Callable[[str], PreTrainedModel]:
    """The same random model at every call, by architecture."""

    def make(kind: str = "llama") -> PreTrainedModel:
        config = CONFIGS[kind]()
        attention = "eager" if kind == "gemma2" else "sdpa"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()

    return make


@pytest.fixture
def random_base(random_model) -> Callable[[str], LoadedBase]:
    return lambda kind="llama": frozen(random_model(kind), torch.device("cpu"))


@pytest.fixture
def base_folder(random_model, tmp_path):
    """A random llama as a folder of files."""
    folder = tmp_path / "base"
    random_model("llama").save_pretrained(folder)
    return folder
