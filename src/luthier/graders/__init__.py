"""Graders: what an answer is worth. Pure; used by validation, evaluation, GRPO and the graders routes.

`Grader` is the configuration, frozen in a spec; `grade(grader, sample, item)` is the score.
"""

from luthier.graders.grading import grade
from luthier.graders.types import Grader, Score

__all__ = ["Grader", "Score", "grade"]
