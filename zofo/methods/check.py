"""What cannot work together, refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection

from zofo.config import RANK_OF_Z, Config
from zofo.errors import BadInput
from zofo.methods.plan import every
from zofo.methods.table import LEVELS, METRICS, RULES, effective, exact, moves_theta, sketches, zeroth


def check(config: Config, given: Collection[str]) -> None:
    """Refuse what cannot work together. Raises `BadInput` for a given option without effect, or a bad pair."""
    used = effective(config)
    for key in sorted(given):
        if key not in used:
            how = f"method {config.method.name}" + (
                f" with {config.adapter.kind}" if key.startswith("adapter.") else ""
            )
            raise BadInput(f"--{key}", f"it has no effect for {how} as it is configured", "leave it out")
    if config.method.objective in METRICS and not zeroth(config.method):
        found = f"method {config.method.name} needs gradients, and a metric has none"
        raise BadInput(f"--objective {config.method.objective}", found, "take lm or classification, or another method")
    refuse_types(config)
    refuse_sketches(config)
    if "method.decay" in used and config.method.lr_theta * config.method.decay > 1:
        found = f"a step would turn theta over: lr_theta {config.method.lr_theta:g} times it is above 1"
        raise BadInput(f"--method.decay {config.method.decay:g}", found, "take less")
    if "method.stage_one" in used and config.method.stage_one >= config.run.steps:
        found = f"the run has {config.run.steps} steps, none would be left for zeroth order"
        raise BadInput(f"--method.stage_one {config.method.stage_one}", found, "ask for fewer, or for more --steps")
    if config.adapter.kind == "prefix" and config.model.activation_checkpointing:
        raise BadInput(
            "--model.activation_checkpointing", "peft refuses it with a prefix", "leave it out, or use lora or prompt"
        )
    if "method.weighting" in used and config.method.weighting == "normalised" and config.method.rule != "sgd":
        raise BadInput(
            "--method.weighting normalised",
            f"the rule {config.method.rule} is scale-free and undoes it",
            "leave it out",
        )
    if "method.weighting" in used and config.method.weighting == "normalised" and every(config.method) > 1:
        found = f"weighted by 1 + lambda, a penalty {config.method.lam_every} times as heavy in one iteration is not lambda in the mean"
        do = "give --method.lam_every 1 (a preset may have it larger), or --method.weighting raw"
        raise BadInput(f"--method.lam_every {config.method.lam_every}", found, do)
    if "method.short_tokens" in used and config.method.short_tokens and config.data.redraw:
        found = "rows go by their length, which demonstrations drawn anew change"
        raise BadInput(f"--method.short_tokens {config.method.short_tokens}", found, "leave it out, or data.redraw")
    if config.method.inference_adapter == "s" and config.method.name in LEVELS and config.method.s == "off":
        raise BadInput("--method.inference_adapter s", "s is off", "leave it out")


def refuse_sketches(config: Config) -> None:
    """Raise where an upper level is asked for what the other kind has."""
    m = config.method
    kind = "sketch" if sketches(m) else "zeroth-order"
    if (moves_theta(config) or zeroth(m)) and m.rule not in RULES[kind]:
        found = f"a {kind} upper level has none such"
        raise BadInput(f"--method.rule {m.rule}", found, f"take one of {', '.join(RULES[kind])}")
    if not sketches(m):
        if m.noise == "low-rank" and m.rank > RANK_OF_Z:
            raise BadInput(
                f"--method.rank {m.rank}", "the low-rank law counts signs by the word", f"take {RANK_OF_Z} or less"
            )
        return
    if m.noise not in ("gaussian", "rademacher"):
        found = "a sketch's R has independent entries"
        raise BadInput(f"--method.noise {m.noise}", found, "take rademacher or gaussian")
    if m.name in LEVELS and m.lower == "zeroth-order":
        raise BadInput("--method.upper sketch", "it takes backward passes, and the lower level has none", "take lower first-order")  # fmt: skip


def refuse_types(config: Config) -> None:
    """Raise where half-precision weights would be computed with in another type."""
    weights = config.model.weights
    if weights != "fp32" and exact(config) and not zeroth(config.method):
        found = "torch's optimizers lose small steps in a half type, so all weights are trained in fp32"
        raise BadInput(f"--model.weights {weights}", found, "leave it out (--dtype bf16 computes in bf16), or tune the adapter")  # fmt: skip
    for key, dtype in (("model.dtype", config.model.dtype), ("method.probe_dtype", config.method.probe_dtype)):
        if weights != "fp32" and dtype not in ("auto", weights):
            raise BadInput(f"--{key} {dtype}", f"the weights are held in {weights}", f"take auto or {weights}")
