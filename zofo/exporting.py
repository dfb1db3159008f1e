"""`zofo.export`: the adapter with the theta it fits, or merged plain transformers weights (LoRA)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from zofo import config, models, streamed
from zofo.adapters import stored
from zofo.core.weights import leaves as tree
from zofo.errors import BadInput
from zofo.guest import guest, refuse_checkpoint
from zofo.loading import warned
from zofo.methods.table import lends
from zofo.run import folder, seam
from zofo.run.folder import RunFolder
from zofo.run.signals import Stop
from zofo.saved import Saved, open_run
from zofo.theta0 import fingerprint

README = """# {name}

Exported by zofo from run `{name}` (step {step}, the {which} checkpoint, adapter {used}).

{what}

Scores and predictions of zofo in bf16 differ from this model's in fp32 by roundings: compare with `zofo predict {name} FILE --dtype fp32`.

theta's SHA-256 (over names, shapes and bytes, as zofo reads it): `{theta}`
"""
MERGED = "Plain transformers weights, the LoRA adapter merged in: `AutoModelForCausalLM.from_pretrained(folder)`."
PLAIN = "Plain transformers weights, no adapter goes with them: `AutoModelForCausalLM.from_pretrained(folder)`."
BESIDE = (
    "`base/` holds the trained weights theta, `adapter/` the adapter that fits them and no others: "
    "`PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder + '/base'), folder + '/adapter')`."
)
SOON = 0.01  # seconds: a signal stops an export where it is


@guest()
def export(
    run: str | Path,
    out: str | Path,
    *,
    merge: bool | None = None,
    slot: str | None = None,
    which: str = "best",
    dir: str | Path = "runs",
) -> Path:
    """Write a run's model as plain transformers and peft files, as `zofo export` does; returns the folder.

    Args: run, a name in `dir` or a path; out, a new folder; the others as `exported` has them.
    Raises and cost: see there.
    """
    refuse_checkpoint("export", which)
    return exported(folder.find(str(run), str(dir)), Path(out), merge, slot, which, warned)


def exported(
    run: RunFolder,
    out: Path,
    merge: bool | None = None,
    slot: str | None = None,
    which: str = "best",
    say: Callable[[str], None] = print,
) -> Path:
    """Write a run's model to a new folder, whole or not at all.

    Args: merge, True for plain weights (LoRA only), False for adapter and base side by side, None for
    merged where it can be (LoRA, and not on a weight that two modules share); slot, instead of the chosen one, as `saved.open_run` has it; which, "best" or "last".
    Raises: BadInput when merging was asked of a prefix, a prompt or LoRA on a tied weight, or the folder exists; ZofoError where the disk refuses.
    Cost: the weights in memory and on disk.
    """
    if out.exists() or out.is_symlink():
        raise BadInput(f"--out {out}", "it exists", "name a new folder")
    folder.check_name(out.name or str(out), "--out")
    folder.refuse_no_place(f"--out {out}", out)
    settings = config.load(run.config)
    kind = settings.adapter.kind
    if merge and kind != "lora" and (lends(settings) or slot is not None):
        raise BadInput(
            "--merge", f"a {kind} cannot be merged into weights (it adds tokens, not weights)", "use --no-merge"
        )
    saved = open_run(run, which, slot, say)
    if merge and (name := tied(saved)):
        found = f"the adapter changes {name}, whose weight is another module's too: both would change"
        raise BadInput("--merge", found, "use --no-merge")
    plainly = merge if merge is not None else kind == "lora" and not tied(saved)
    with whole(out, sum(leaf.numel * leaf.dtype.itemsize for leaf in saved.held.leaves)) as work, models.quiet():
        describe(saved, run.name, write(saved, work, plainly), work)
    return out


@contextmanager
def whole(out: Path, need: int) -> Iterator[Path]:
    """A block that writes a folder under the name given, which then becomes `out`, fsynced; of one that fails or is stopped nothing is left.

    What dead processes left of `out` is deleted. Args: need, about how many bytes.
    Raises: ZofoError where the disk refuses; Interrupted at SIGTERM and SIGINT.
    """
    work = seam.beside(out)
    with Stop(grace=SOON), seam.told(out, need, "export again"):
        seam.make_folder(out.parent)
        seam.sweep(out.parent, re.compile(rf"^{re.escape(out.name)}\.tmp-(\d+)$"))
        seam.room(out.parent, need)
        try:
            yield work
            seam.settle_folder(work)
            seam.disk.rename(work, out)
        except BaseException:
            seam.discard(work)
            raise
        seam.disk.fsync_dir(out.parent)


def describe(saved: Saved, name: str, what: str, out: Path) -> None:
    """Write beside the weights what they are: README.md for people, zofo.json for programs."""
    theta = fingerprint(saved.held.leaves, torch.float32 if mixed(saved) else None)
    used = f"{saved.task}/{saved.used}" if saved.task else saved.used
    values = {"name": name, "step": saved.step, "which": saved.which, "used": used}
    (out / "README.md").write_text(README.format(what=what, theta=theta, **values), encoding="utf-8")
    (out / "zofo.json").write_text(json.dumps({**values, "theta_sha256": theta}, indent=1), encoding="utf-8")


def tied(saved: Saved) -> str:
    """A module that LoRA changes and whose weight has a second owner (a tied head or embedding); empty without one."""
    several = {id(leaf.param) for leaf in saved.held.leaves if sum("." not in attr for _, attr in leaf.owners) > 1}
    modules = saved.slots.model.named_modules() if saved.slots is not None else ()
    return next(
        (name for name, m in modules if id(getattr(getattr(m, "base_layer", None), "weight", None)) in several), ""
    )


def write(saved: Saved, out: Path, merge: bool) -> str:
    """Write the weights and say what they are."""
    if saved.slots is None:
        plain(saved, saved.model, out)
        return PLAIN
    peft = cast(Any, saved.slots.model)
    if merge:
        peft = peft.float() if mixed(saved) else peft  # in a half type most of a small change would round away
        plain(saved, peft.merge_and_unload(adapter_names=[saved.used]), out)
        return MERGED
    theta = {leaf.name: leaf.data for leaf in saved.held.leaves}
    base = fresh(saved, theta)
    plain(saved, base, out / "base")
    stored.write(saved.slots, saved.used, out / "adapter")
    return BESIDE


def fresh(saved: Saved, theta: dict[str, Any]) -> nn.Module:
    """A plain base model that holds the trained theta (a second copy of the weights while it is written)."""
    base = models.load(saved.held.source, saved.config.model)
    for leaf in tree.find(base):
        leaf.data.copy_(theta[leaf.name])
    return base


def plain(saved: Saved, model: nn.Module, out: Path) -> None:
    """Write a model and its tokenizer as `save_pretrained` does (by pieces, where its weights are outside memory)."""
    if saved.held.hooks is not None:
        streamed.save(model, saved.held.leaves, out)
    else:
        cast(Any, model).save_pretrained(out)
    if mixed(saved):  # else transformers would round the vectors to the matrices' type
        path = out / "config.json"
        held = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**held, "dtype": "float32"}, indent=2), encoding="utf-8")
    saved.tokenizer.save_pretrained(out)


def mixed(saved: Saved) -> bool:
    """Whether matrices are of a half type, beside vectors that are not."""
    return len({leaf.dtype for leaf in saved.held.leaves}) > 1
