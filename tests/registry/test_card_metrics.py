"""What a method measures beside the loss reaches the card as single numbers."""

from luthier.registry.rules import flat_metrics
from luthier.registry.types import Evaluation


def test_metrics_of_both_sides_are_single_numbers():
    found = Evaluation.model_validate(
        {
            "rows": 3,
            "base": {"loss": 0.7, "metrics": {"accuracy": 0.5}},
            "tuned": {"loss": 0.1, "perplexity": None, "metrics": {"accuracy": 1.0, "margin": 4.0}},
        }
    )
    assert flat_metrics({"steps": 9, "note": "no number", "fast": True}, found) == {
        "steps": 9.0,
        "base_loss": 0.7,
        "base_accuracy": 0.5,
        "tuned_loss": 0.1,
        "tuned_accuracy": 1.0,
        "tuned_margin": 4.0,
    }
