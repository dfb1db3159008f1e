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

    def plus(self, other: SeedGrad) -> SeedGrad:
        """Return the sum of this gradient and another along the same directions. Raises: ValueError where they are others."""
        if other.law != self.law or [key for key, _ in other.terms] != [key for key, _ in self.terms]:
            raise ValueError("a sum of gradients along different directions")
        return replace(
            self, terms=tuple((key, a + b) for (key, a), (_, b) in zip(self.terms, other.terms, strict=True))
        )

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The c_i alone."""
        return tuple(c for _, c in self.terms)
