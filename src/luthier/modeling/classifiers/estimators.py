"""The scikit-learn classifiers that are built in. scikit-learn is imported only where one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pydantic import Field

from luthier.modeling.classifiers.types import Estimator, Shape, SklearnEntry
from luthier.values import Frozen, Whole

_MOST_WORDS = 20_000
"""The memory of a linear model grows with words times classes."""
_TEXT = {
    "sklearn.pipeline.Pipeline",
    "sklearn.feature_extraction.text.TfidfVectorizer",
    "sklearn.feature_extraction.text.TfidfTransformer",
}


class LogisticOptions(Frozen):
    """Of `logistic-regression`."""

    C: float = Field(default=1.0, gt=0, le=1e9, description="Inverse of the strength of regularisation.")
    max_iter: Whole = Field(default=200, ge=1, le=100_000, description="Iterations at most.")


class ForestOptions(Frozen):
    """Of `random-forest`."""

    n_estimators: Whole = Field(default=100, ge=1, le=10_000, description="Trees.")
    max_depth: Whole | None = Field(default=None, ge=1, le=1000, description="Of a tree; as deep as it takes by default.")
    min_samples_leaf: Whole = Field(default=1, ge=1, le=100_000, description="Rows of a leaf at least.")


def logistic_regression(options: LogisticOptions, shape: Shape, seed: int) -> Estimator:
    """A linear model; of texts on their TF-IDF."""
    from sklearn.linear_model import LogisticRegression

    return _on_words(LogisticRegression(C=options.C, max_iter=options.max_iter, random_state=seed), shape)


def random_forest(options: ForestOptions, shape: Shape, seed: int) -> Estimator:
    """Trees that vote. One thread: the last bits of an answer would depend on which of several came first."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=options.n_estimators,
        max_depth=options.max_depth,
        min_samples_leaf=options.min_samples_leaf,
        random_state=seed,
    )
    return _on_words(forest, shape)


def _on_words(estimator: Estimator, shape: Shape) -> Estimator:
    if shape.reads == "images":
        return estimator
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline

    # Words and pairs of words; a word is one letter or more, so that no text is without any.
    pattern = r"(?u)\b\w+\b"
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=pattern, sublinear_tf=True, max_features=_MOST_WORDS)
    return cast(Estimator, Pipeline([("words", words), ("model", estimator)]))


ENTRIES: Mapping[str, SklearnEntry] = {
    "logistic-regression": SklearnEntry(
        logistic_regression,
        frozenset({"sklearn.linear_model._logistic.LogisticRegression", *_TEXT}),
        LogisticOptions,
    ),
    "random-forest": SklearnEntry(
        random_forest,
        frozenset(
            {
                "sklearn.ensemble._forest.RandomForestClassifier",
                "sklearn.tree._classes.DecisionTreeClassifier",
                "sklearn.tree._tree.Tree",
                *_TEXT,
            }
        ),
        ForestOptions,
        grows="n_estimators",
    ),
}
