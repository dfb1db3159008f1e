from __future__ import annotations

import math

import pytest

from zofo.scoring.metrics import accuracy, macro_f1, summarise


def test_accuracy_and_its_standard_error() -> None:
    value, error = accuracy([1, 0, 1, 1], [1, 0, 0, 1])
    assert value == 0.75 and error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_the_standard_error_is_the_spread_of_accuracies_of_fresh_samples() -> None:
    from zofo.core.streams import generator

    labels = [0] * 200
    draws = (generator(0, "metrics test").random((2000, 200)) > 0.8).astype(int).tolist()
    values = [accuracy(draw, labels)[0] for draw in draws]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    assert spread == pytest.approx(math.sqrt(0.8 * 0.2 / 200), rel=0.1)


def test_macro_f1_weighs_classes_alike() -> None:
    # class 0: precision 3/4, recall 1 -> 6/7; class 1 never predicted -> 0
    assert macro_f1([0, 0, 0, 0], [0, 0, 0, 1]) == pytest.approx(3 / 7)


def test_summary_means_losses_without_rounding_drift_and_adds_f1_only_when_asked() -> None:
    found = summarise([0, 1], [0, 1], [0.1, 0.3])
    assert found == {"loss": 0.2, "accuracy": 1.0, "se": 0.0, "n": 2}
    assert summarise([0, 1], [0, 1], [0.1, 0.3], "f1")["f1"] == 1.0


@pytest.mark.parametrize("rows", [([], [], []), ([0], [0], [])])
def test_nothing_to_measure_is_an_error(rows: tuple[list[int], list[int], list[float]]) -> None:
    with pytest.raises(ValueError, match="losses"):
        summarise(*rows)
