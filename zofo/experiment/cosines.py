"""How near a run's estimate of G is to the gradient in the end: `zofo bench estimate`'s cosine, for the run's own kind."""

from __future__ import annotations

from typing import Any

from zofo.bench import cosine, estimate
from zofo.bench.setting import Asked
from zofo.config import Config
from zofo.methods import table
from zofo.methods.plan import next_look
from zofo.methods.state import EPS, law_of
from zofo.run.folder import RunFolder


def measurable(settings: Config) -> bool:
    """Whether a run has terms A, B, C and an estimate of theta's gradient in fp32 weights that is compared."""
    held = settings.model.weights == "fp32" and settings.method.objective not in table.METRICS
    return held and estimate.has_terms(settings) and settings.method.lr_theta > 0


def of(run: RunFolder, keys: int) -> dict[str, Any]:
    """The cosine of a run's estimate with autograd's gradient, at its last checkpoint, on the batches of the next iteration that looks at the penalty.

    Returns: for A and (where lambda is above 0) G, mean and standard error over `keys` keys of z or R (of several tasks: on each that the next iteration takes), in the run's computing dtype.
    Cost: see `cosine.on_batch`. Memory: a gradient of the weights' size beside an estimate's.
    """
    held, step = estimate.at_last(run)
    m, dtype = held.config.method, held.config.method.probe_dtype
    kind = f"sketch-{m.noise}-{m.side}" if table.sketches(m) else f"{m.estimator}-{law_of(m)}"
    asked = Asked([m.eps or EPS], 0, 1, [dtype], m.noise, (kind,), keys, m.rank)
    rows = cosine.rows_of("last", cosine.measure(held, asked, next_look(m, step), lambda _: None))
    return {row["objective"]: {"mean": row["cosine"], "se": row["cosine_se"], "kind": kind} for row in rows}
