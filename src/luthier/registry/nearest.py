"""Which of many vectors point the same way as one: all of them are compared, which takes milliseconds for tens of thousands."""

from __future__ import annotations

from collections.abc import Sequence


class Vectors:
    """Vectors of length 1, each as the bytes of its 32-bit numbers. numpy is loaded here, and only where there are some."""

    def __init__(self, vectors: Sequence[bytes]) -> None:
        self._matrix = None
        if vectors:
            import numpy as np

            self._matrix = np.frombuffer(b"".join(vectors), np.float32).reshape(len(vectors), -1)

    def best(self, query: Sequence[float], limit: int) -> list[tuple[int, float]]:
        """Numbers and cosines of the nearest, nearest first. `query` is of any length but 0."""
        if self._matrix is None:
            return []
        import numpy as np

        wide = np.array(query, np.float64)
        wide /= np.abs(wide).max()  # squares of what is huge or tiny would leave the range
        cosines = self._matrix @ (wide / np.linalg.norm(wide)).astype(np.float32)
        # One comparison with all, then a sort of the few that count; of equals the newer one.
        near = np.argpartition(cosines, -limit)[-limit:] if len(cosines) > limit else np.arange(len(cosines))
        ordered = near[np.lexsort((near, cosines[near]))[::-1]]
        return [(int(number), float(cosines[number])) for number in ordered]
