"""`SeedGrad`: a gradient of any number of weights as a few numbers, sum_i c_i z(key_i)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zofo.core.noise import Law


@dataclass(frozen=True)
class SeedGrad:
    """sum_i c_i z(key_i): `terms` holds (key, c), `law` the law of z. Tens of bytes, whatever the model."""

    law: Law
    terms: tuple[tuple[int, float], ...]

    def scaled(self, factor: float) -> SeedGrad:
        """Return factor times this gradient."""
        return replace(self, terms=tuple((key, factor * c) for key, c in self.terms))

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The c_i alone."""
        return tuple(c for _, c in self.terms)
