"""After many estimates every weight has the bits it had, in every type; MeZO's walk leaves others."""

from __future__ import annotations

import pytest

from zofo.bench import drift


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp32", "bf16", "fp16"])
def test_exact_probing_changes_nothing(weights: drift.Weights, folder: str) -> None:
    found = drift.main(folder, (weights,), n=1000, walks=20)["results"]
    assert found[f"{weights}, exact"] == {"estimates": 1000, "changed": 0, "share": 0.0, "drift": 0.0}
    walk = found[f"{weights}, MeZO's walk"]
    assert walk["share"] > 0.2 and walk["drift"] > 0
