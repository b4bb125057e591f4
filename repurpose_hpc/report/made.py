"""How shards were made, from what their plan keeps of it.

A plan knows no names of files: the same model, data and options give the same shards wherever they are.  So a
command line has words in their place, and fingerprints beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repurpose_hpc.fields import count, defaults, flag
from repurpose_hpc.io.invocation import command_line
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.tokens.options import TokenOptions

# Tables of prices and machines, which are files on a command line, or fill one.
_FILES = {"link_costs": "FILE", "minimise": "time"}
# Those who promise give no budgets, which are found.
_PROMISES = ("max_accuracy_drop", "max_output_error", "max_perplexity_increase")
# Of a fingerprint in a summary.
_DIGITS = 12


def made(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The key ``made`` of the report of ``inspect``, of what a plan keeps; see ``report.schema.Made``."""
    facts = ("model_fingerprint", "calibration_sha256", "calibration_samples", "texts", "dtype", "versions")
    return {
        "command": command(provenance),
        **{name: provenance[name] for name in facts if name in provenance},
        "tuned": len(provenance.get("tuned", ())),
    }


def command(provenance: Mapping[str, Any], *more: str) -> str:
    """The command line: model, data, the options that are not as they are by default, and ``more`` words."""
    options = dict(provenance.get("options", {}))
    has_data = bool({"calibration_sha256", "texts"} & provenance.keys())
    words = ["restructure", "MODEL", *["--calibration", "DATA"] * has_data]
    words += ["--workers", str(options.pop("workers", "P"))]
    if any(options.get(name) is not None for name in _PROMISES):
        options.pop("comm_budget", None)
        if not isinstance(options.get("minimise", ""), str):
            options.pop("compute_budget", None)
    words += option_words({**options, "dtype": provenance.get("dtype")})
    if "refined" in provenance:
        words += ["--finetune", str(provenance["refined"]["epochs"])]
    return command_line(*words, *more)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options of restructuring that are not as they are by default, as they are typed."""
    usual = {**defaults(TokenOptions), **defaults(Options), "dtype": "float32"}
    return [
        word
        for name, value in options.items()
        if name in usual and value not in (None, usual[name])
        for word in _words(name, value)
    ]


def _words(name: str, value: Any) -> tuple[str, ...]:
    if value is True:
        return (flag(name),)
    if name in _FILES and not isinstance(value, str):
        return flag(name), _FILES[name]
    # Every digit counts: the command must make the same shards.
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return flag(name), ",".join(map(str, numbers))


def summary(found: Mapping[str, Any]) -> str:
    """The same for people, two lines."""
    of = [f"model {found['model_fingerprint'][:_DIGITS]}"]
    if "calibration_sha256" in found:
        known = "calibration_samples" in found
        samples = f"{count(found['calibration_samples'], 'sample')} " if known else ""
        of.append(f"{samples}{found['calibration_sha256'][:_DIGITS]}")
    if "texts" in found:
        of.append(f"{count(found['texts'], 'text')}")
    by = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    tuned = found["tuned"]
    then = f", then tuned {count(tuned, 'time')} by finetune" if tuned else ""
    return f"made by  {found['command']}{then}\n     of  {', '.join(of)}; {by}"
