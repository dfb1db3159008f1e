"""Numbers below 1 and tasks without choices are refused by the flag that asked for them."""

from __future__ import annotations

import pytest

from zofo.cli.counts import refuse_below_one, refuse_free_answers
from zofo.errors import BadInput


def test_the_first_number_below_one_is_named_with_its_flag() -> None:
    refuse_below_one({"--rows": 1, "--shots": (1, 16)})
    with pytest.raises(BadInput, match=r"^--rows 0: not 1 or more"):
        refuse_below_one({"--rows": 0, "--shots": (-1,)})
    with pytest.raises(BadInput, match=r"^--shots -2: not 1 or more"):
        refuse_below_one({"--rows": 3, "--shots": (4, -2)})


def test_a_task_without_choices_is_named() -> None:
    refuse_free_answers(("sst2", "copa"))
    with pytest.raises(BadInput, match=r"^--task squad: it has no choices to score"):
        refuse_free_answers(("sst2", "squad"))
