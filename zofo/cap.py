"""`--memory-cap`: whether a run's weights fit under it, what cannot do without them in memory, and what was measured."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from zofo import cache, models
from zofo.config import Config, size_of
from zofo.errors import BadInput
from zofo.memory.resident import HighWater
from zofo.memory.sizes import estimate, total
from zofo.memory.work import of_shape, row
from zofo.methods import table
from zofo.sources import Source


def streams(config: Config, source: Source) -> bool:
    """Whether a run's weights stay on disk: a cap is set, and with them in memory it would be exceeded.

    Raises: BadInput where they would, and the method cannot do without them.
    """
    limit = size_of(config.run.memory_cap)
    need = needed(config, source) if limit else 0
    if need <= limit:
        return False
    if not table.streams(config):
        found = f"about {gb(need)} are needed, and {config.method.name} as configured keeps the weights in memory"
        instead = "raise the cap, or take mezo with tune full, rule sgd or scalar-adaptive, probe scratch, fp32 weights"
        raise BadInput(f"--memory-cap {config.run.memory_cap}", found, instead)
    return True


def needed(config: Config, source: Source) -> int:
    """Bytes that a run needs with its weights in memory, as far as it is known: what is resident now, and `zofo.memory`."""
    skeleton = models.skeleton(source)
    work = of_shape(config, row(config, models.positions(source)))
    return status("VmRSS") + total(estimate(config, skeleton, work))


def workplace() -> Path:
    """The folder for working copies of weights: in zofo's cache. Raises: BadInput where it cannot be written to."""
    return cache.folder("work")


def status(key: str) -> int:
    """Bytes of resident memory, mapped pages included: now (VmRSS) or at most so far (VmHWM); elsewhere than on Linux the latter."""
    place = Path("/proc/self/status")
    if not place.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (found,) = [line for line in place.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(found.split()[1]) * 1024


def highest() -> int:
    """The most resident bytes of the process's life, whoever has reset the kernel's mark since (a run does in each step)."""
    return max(status("VmHWM"), HighWater.before)


def gb(count: int) -> str:
    """Bytes as GB."""
    return f"{count / 1e9:.2f} GB"


def kept(config: Config) -> str | None:
    """A sentence about the measured peak and the cap, where one is set."""
    if not config.run.memory_cap:
        return None
    peak, limit = highest(), size_of(config.run.memory_cap)
    how = "within" if peak <= limit else "OVER"
    return f"peak resident memory {gb(peak)}: {how} the cap of {config.run.memory_cap}"
