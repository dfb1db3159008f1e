"""The real model and real rows: for the tests that compare zofo with others (`make test-peers`)."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest

from zofo import job, models
from zofo.config import build


class Real(NamedTuple):
    """SmolLM2-135M and its tokenizer."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="session")
def real() -> Real:
    if not os.environ.get("ZOFO_DATA"):
        pytest.skip("ZOFO_DATA is not set: the tasks' rows are not here")
    config = build({"model.name": "smollm2-135m", "data.task": "reviews", "data.test_rows": 1})
    ready = job.prepare(config, wanted=("test",))
    return Real(models.load(ready.source, config.model), ready.tokenizer)
