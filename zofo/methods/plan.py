"""What an iteration of the bilevel method does: the terms of G, the slots trained below, and lambda's schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from zofo.config import MethodConfig


@dataclass(frozen=True)
class Term:
    """One term of G: its name, the slot and the rows it reads ("f" or "p"), and its weight in G."""

    name: str
    slot: str
    rows: str
    weight: float


@dataclass(frozen=True)
class Plan:
    """What an iteration does: the slots trained below, whether p follows s or steps above, and the terms of G.

    With `mixed`, p below takes the mixed batch of each pair, else (s off) the batch of D_p.
    """

    below: tuple[str, ...]
    follow: bool
    p_above: bool
    terms: tuple[Term, ...]
    mixed: bool = False

    def lam(self, lam: float) -> float:
        """The weight of the penalty: lambda, where there is a penalty, else 0."""
        return lam if len(self.terms) > 1 else 0.0


def lam_at(config: MethodConfig, k: int, steps: int) -> float:
    """lambda of outer iteration k: that of its schedule; with lam_every = n, n times that in iterations 0, n, 2 n, ..., and 0 in others.

    So the mean of a constant lambda over whole periods is lambda, and B, C and s cost their passes in one iteration of n.
    """
    n = every(config)
    return 0.0 if k % n else n * scheduled(config, k, steps)


def heaviest(config: MethodConfig) -> float:
    """The largest lambda that an iteration has: at either end of its schedule, times `lam_every`."""
    ends = (config.lam,) if config.lam_schedule == "constant" else (config.lam, config.lam_start)
    return every(config) * max(ends)


def every(config: MethodConfig) -> int:
    """The penalty is looked at in each so many-th iteration."""
    return config.lam_every if config.s == "on" and config.coupling != "follow" else 1


def next_look(config: MethodConfig, k: int) -> int:
    """The first iteration from k on that looks at the penalty."""
    return k + -k % every(config)


def scheduled(config: MethodConfig, k: int, steps: int) -> float:
    """lambda by its schedule: constant, or from lam_start to lam over the run, linearly or geometrically."""
    if config.lam_schedule == "constant" or config.lam == 0:
        return config.lam
    done = min(1.0, k / max(1, steps - 1))
    if config.lam_schedule == "linear":
        return config.lam_start + done * (config.lam - config.lam_start)
    return config.lam_start * math.pow(config.lam / config.lam_start, done)


def plan(config: MethodConfig, lam: float) -> Plan:
    """Read the table of DESIGN section 2: which slots learn below, and what theta sees."""
    a = Term("A", "p", "f", 1.0)
    if config.s == "off":
        return Plan(("p",), False, False, (a,))
    if config.coupling == "follow":
        return Plan(("s",), True, False, (a,))
    both = config.coupling == "both"
    if lam == 0:
        return Plan(("p",) if both else (), False, not both, (a,), mixed=both)
    scale = 1 / (1 + lam) if config.weighting == "normalised" else 1.0
    terms = (replace(a, weight=scale), Term("B", "p", "p", lam * scale), Term("C", "s", "p", -lam * scale))
    return Plan(("s", "p") if both else ("s",), False, not both, terms, mixed=both)


def slots(config: MethodConfig) -> tuple[str, ...]:
    """The adapters that a configuration needs."""
    alone = config.s == "off" or (config.lam == 0 and config.coupling != "follow")
    return ("p",) if alone else ("p", "s")
