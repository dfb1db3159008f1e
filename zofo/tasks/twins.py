"""Which tasks are one data set under two names. Light: `zofo show` and `ls` look at mixtures without torch."""

from __future__ import annotations

import re

DRESS = re.compile(
    r"^(?:(?:glue|superglue|lama)-|unifiedqa[-:]|kilt_)|-(?:with_context|no_context|finegrained)$|_with_ir$|_"
)
SAME = {
    "rottentomatoes": "sst2",  # both are cut from the same reviews
    "winograndexl": "winogrande", "squad11": "squad", "squad2": "squad", "racestring": "race", "physicaliqa": "piqa",
    "naturalquestionswithdprpara": "nq",
}  # fmt: skip
"""Names that no dress tells from another data set's (the numbers and endings are UnifiedQA's)."""
OWN = "own/"


def data_set(name: str) -> str | None:
    """The data set that a task's name stands for: rte, glue-rte and superglue-rte are one. None of a user's own task."""
    if name.startswith(OWN):
        return None
    bare = DRESS.sub("", name.rpartition("/")[2])
    return SAME.get(bare, bare)
