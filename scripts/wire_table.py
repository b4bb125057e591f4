"""Measure all comm dtypes: bytes, accuracy and output error, as CSV and as a Markdown table.

    python scripts/wire_table.py MODEL --calibration DATA --test DATA --workers 8 \\
        --out docs/results/comm_dtype.csv

Every comm dtype is measured twice: with weights adjusted for it, and with weights adjusted for exact ghosts
and relays.  The test data only report.  A second call computes only what is missing.
"""

from accuracy_table import arguments
from rows import markdown, read_csv, write_csv

from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

WITHOUT_RELAYS, WITH_RELAYS = "ghosts,sums", "ghosts,sums,relays"
# Input placement, budget, forms.
SETTINGS = (
    ("partitioned", 0.05, WITHOUT_RELAYS),
    ("partitioned", 0.02, WITHOUT_RELAYS),
    ("replicated", 0.05, WITHOUT_RELAYS),
    ("replicated", 0.02, WITHOUT_RELAYS),
    ("partitioned", 0.05, WITH_RELAYS),
    ("partitioned", 0.02, WITH_RELAYS),
)
KEYS = ("input_placement", "budget", "forms", "wire", "adjusted_for")
NAMES = (
    "input",
    "budget",
    "forms",
    "comm dtype",
    "bytes",
    "accuracy",
    "output error",
    "adjusted for float32",
)
FORMATS = {"accuracy": ".4f", "output_error": ".5f"}


def main() -> None:
    """Measure every comm dtype in all settings."""
    args = arguments(__doc__)
    network = load_model(args.model)
    calibration, test = open_samples(args.calibration), open_samples(args.test)
    rows: list[dict] = [*read_csv(args.out)]
    for placement, budget, forms in SETTINGS:
        for adjusted_for in COMM_DTYPES:
            used = COMM_DTYPES if adjusted_for == EXACT else (adjusted_for,)
            points = [(placement, str(budget), forms, comm_dtype, adjusted_for) for comm_dtype in used]
            known = {tuple(row[name] for name in KEYS) for row in rows}
            missing = [point for point in points if point not in known]
            if not missing:
                continue
            options = Options(
                args.workers, budget, placement, comm_dtype=adjusted_for, forms=tuple(forms.split(","))
            )
            result = restructure(network, calibration, options)
            for point in missing:
                row = dict(zip(KEYS, point, strict=True))
                rows.append(row | measured(network, result, row["wire"], calibration, test))
                print(*rows[-1].values(), flush=True)
            write_csv(args.out, rows)
    print(table(rows))


def measured(
    network: Network, result: Cut, comm_dtype: str, calibration: Samples, test: Samples
) -> dict[str, object]:
    """Bytes per sample, and distances of the outputs from the original's, sent as ``comm_dtype``."""
    compute = rounded_compute(result.network, result.plan, comm_dtype)
    columns: dict[str, object] = {"bytes": result.plan.bytes_sent(result.network, comm_dtype)}
    for name, samples in (("calibration", calibration), ("test", test)):
        findings = compare(network, result.network, samples, compute=compute).findings()
        columns[f"{name}_accuracy"] = round(findings["accuracy"], 4)
        columns[f"{name}_output_error"] = round(findings["output_error"], 6)
    return columns


def table(rows: list[dict]) -> str:
    """A line for each setting and comm dtype; adjusted for that, then for exact ghosts and relays."""
    by_key = {tuple(row[name] for name in KEYS): row for row in rows}
    lines = []
    for placement, budget, forms in SETTINGS:
        for comm_dtype in COMM_DTYPES:
            setting = (placement, str(budget), forms, comm_dtype)
            row, unadjusted = (by_key[(*setting, adjusted_for)] for adjusted_for in (comm_dtype, EXACT))
            lines.append((*setting, f"{int(row['bytes']):,}", *_errors(row), ", ".join(_errors(unadjusted))))
    return markdown(NAMES, lines)


def _errors(row: dict) -> list[str]:
    """Accuracy and output error on test data."""
    return [format(float(row[f"test_{name}"]), spec) for name, spec in FORMATS.items()]


if __name__ == "__main__":
    main()
