"""The benchmark measures what it says: the same rows and positions, and MeZO's walk is MeZO's."""

from __future__ import annotations

import pytest
import torch

from zofo.bench import step


def test_it_reports_every_kind_against_the_plain_forward(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for full in (False, True):
        found = step.main(model=folder, noise=("rademacher",), rows=2, tokens=8, rounds=2, full=full)
        assert set(found["results"]) == {"plain forward", "zofo step, rademacher", "MeZO's loop"}
        assert found["results"]["plain forward"]["forwards"] == 1.0
        assert found["weights"] > 0


def test_both_losses_are_the_same_number(folder: str) -> None:
    from transformers import AutoModelForCausalLM

    from zofo.scoring.objective import row_losses

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    made = step.batch(model, 3, 9)
    assert made.input_ids.shape == (3, 9)
    with torch.no_grad():
        exact = row_losses(model, made).mean()
        torch.testing.assert_close(step.full_logits(model, made, "fp32"), exact)
        half = step.full_logits(model, made, "bf16")
        assert half != exact
        torch.testing.assert_close(half, row_losses(model, made, "bf16").mean(), atol=2e-2, rtol=0)


def test_the_walk_is_mezos(folder: str) -> None:
    """theta ends at theta - lr c z, up to the rounding that walking costs."""
    weight = torch.nn.Linear(3, 1, bias=False).double()
    before = weight.weight.detach().clone()
    walk = step.Walk(weight, lambda: (weight.weight**2).sum(), eps=1e-3, lr=1e-2)
    walk.step()
    z = torch.randn(before.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    c = 2 * (before * z).sum()
    torch.testing.assert_close(weight.weight.detach(), before - 1e-2 * c * z, atol=1e-6, rtol=0)
