"""The head of a model that names one, and None of all others."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from zofo.core.weights.head import output_head


class Model(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def get_output_embeddings(self) -> Any:
        if self.answer is NotImplementedError:
            raise NotImplementedError
        return self.answer


@pytest.mark.parametrize("answer", [None, NotImplementedError, "no module"])
def test_a_model_that_names_none(answer: Any) -> None:
    assert output_head(Model(answer)) is None and output_head(nn.Linear(2, 2)) is None


def test_a_model_that_names_its_head() -> None:
    head = nn.Linear(2, 3)
    assert output_head(Model(head)) is head
