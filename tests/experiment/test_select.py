"""The choice: the lowest mean validation loss over the sweep's seeds; what failed is out; ties go to the first."""

from __future__ import annotations

import pytest

from zofo.errors import BadInput
from zofo.experiment import cells
from zofo.experiment.select import choose, remarks, standing
from zofo.experiment.store import Store
from zofo.run.jsonfile import write_json

RATES = [1e-3, 1e-2, 1e-1]
FAILED = {"status": "failed", "reason": "it did"}


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ({1e-3: (0.4, 0.4), 1e-2: (0.1, 0.6), 1e-1: (0.5, 0.5)}, 1e-2),
        ({1e-3: (0.4, 0.4), 1e-2: (0.4, 0.4), 1e-1: (0.5, 0.3)}, 1e-3),
        ({1e-3: (0.4, 0.4), 1e-2: (0.1, None), 1e-1: (0.5, 0.5)}, 1e-3),
        ({1e-3: (float("nan"), 0.4), 1e-2: (None, None), 1e-1: (9.0, 9.0)}, 1e-1),
        ({1e-3: (None, None), 1e-2: (None, None), 1e-1: (None, 1.0)}, None),
    ],
)
def test_the_choice(make, made_up, tmp_path, losses, chosen) -> None:
    rows = [{"name": "a", "preset": "fo-lora", "sweep": {"method.lr_p": RATES}}]
    made, store = make(rows=rows, against="", sweep={"seeds": [0, 1]}), Store(tmp_path / "s")
    store.make()
    swept = cells.sweeps(made)
    for cell in swept:
        loss = losses[cell.values["method.lr_p"]][cell.seed]
        record = FAILED if loss is None else made_up(cell, [1, 0], standing=loss)
        record.pop("test", None)
        write_json(store.cells / f"{cell.name}.json", record)
    (found,) = choose(made, store, swept)
    assert found.values == (None if chosen is None else {"method.lr_p": chosen})
    assert [c["values"]["method.lr_p"] for c in found.candidates] == RATES
    assert not chosen or all("failed: it did" in r for c in found.candidates for r in c["failed"])


def test_losses_of_different_kinds_are_not_compared(make, made_up, tmp_path) -> None:
    rows = [{"name": "a", "preset": "fo-lora", "sweep": {"method.objective": ["lm", "classification"]}}]
    store = Store(tmp_path / "s")
    store.make()
    swept = cells.sweeps(make(rows=rows, against=""))
    for cell, by in zip(swept, ("loss", "choice_loss"), strict=True):
        record = made_up(cell, [1, 0], standing={"loss": 5.0, "choice_loss": 0.6}[by])
        record["validation"]["by"] = by
        write_json(store.cells / f"{cell.name}.json", record)
    told = r"row 'a', reviews: sweep\.by = loss: .* by choice_loss and loss, which do not compare; choose by metric"
    with pytest.raises(BadInput, match=told):
        choose(make(rows=rows, against=""), store, swept)
    (found,) = choose(make(rows=rows, against="", sweep={"by": "metric"}), store, swept)
    assert found.values == {"method.objective": "lm"}


def test_a_metric_counts_upwards(make, made_up) -> None:
    held = made_up(cells.sweeps(make())[0], [1, 0], standing=0.7)
    assert standing(held, "loss") == 0.7 and standing(held, "metric") == -0.5
    assert standing(None, "loss") is None and standing({**held, "validation": None}, "loss") is None


def test_a_tie_and_an_end_of_the_grid_are_told() -> None:
    """Two candidates that are at their best before what was swept began to act; the highest rate of all that were tried."""

    def told(*standings: float | None, own: tuple[str, ...] = (), values: list[object] | None = None) -> list[str]:
        tried = [{"method.lr_p": v, "method.T": 2} for v in values or [1e-3, 1e-2, 1e-1]]
        candidates = [{"values": v, "standing": s} for v, s in zip(tried, standings, strict=True)]
        best = min((c for c in candidates if c["standing"] is not None), key=lambda c: c["standing"])  # type: ignore[arg-type,return-value]
        return remarks({"values": best["values"], "candidates": candidates}, own)

    assert told(0.5, 0.4, 0.6) == []
    assert told(0.6, 0.5, 0.4) == ["the highest lr_p tried"]
    assert told(0.3, None, 0.4) == ["the lowest lr_p tried"]
    assert told(0.3, 0.4, 0.4, own=("method.lr_p",)) == [], "a control that gives its own"
    assert told(0.4, 0.4, 0.6) == ["2 of 3 candidates stand equal, the first is taken", "the lowest lr_p tried"]
    assert told(0.4, 0.5, values=["a", "b"]) == []
    assert remarks({"values": None, "candidates": []}) == []
