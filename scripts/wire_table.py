"""Measure all comm dtypes: bytes, accuracy and output error, as CSV and as a Markdown table.

    python scripts/wire_table.py MODEL --calibration DATA --test DATA --workers 8 \\
        --out docs/results/comm_dtype.csv

Every comm dtype is measured twice: with weights adjusted for it, and with weights adjusted for exact ghosts.
The test data only report.
"""

from accuracy_table import arguments
from rows import write_csv

from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

SETTINGS = (("partitioned", 0.05), ("partitioned", 0.02), ("replicated", 0.05), ("replicated", 0.02))


def main() -> None:
    """Measure every comm dtype in all settings."""
    args = arguments(__doc__)
    network = load_model(args.model)
    calibration, test = open_samples(args.calibration), open_samples(args.test)
    rows = []
    for placement, budget in SETTINGS:
        for adjusted_for in COMM_DTYPES:
            options = Options(args.workers, budget, placement, comm_dtype=adjusted_for)
            result = restructure(network, calibration, options, lambda line: None)
            for comm_dtype in COMM_DTYPES if adjusted_for == EXACT else (adjusted_for,):
                point = {"input_placement": placement, "budget": budget, "wire": comm_dtype}
                findings = measured(network, result, comm_dtype, calibration, test)
                rows.append({**point, "adjusted_for": adjusted_for, **findings})
                print(*rows[-1].values(), flush=True)
    write_csv(args.out, rows)
    print(markdown(rows))


def measured(
    network: Network, result: Cut, comm_dtype: str, calibration: Samples, test: Samples
) -> dict[str, object]:
    """Bytes per sample, and distances of the outputs from the original's, with ghosts as ``comm_dtype``."""
    compute = rounded_compute(network, result.plan, comm_dtype)
    columns = {"bytes": result.plan.bytes_sent(network, comm_dtype)}
    for name, samples in (("calibration", calibration), ("test", test)):
        findings = compare(network, result.network, samples, compute=compute).findings()
        columns[f"{name}_accuracy"] = round(findings["accuracy"], 4)
        columns[f"{name}_output_error"] = round(findings["output_error"], 6)
    return columns


def markdown(rows: list[dict]) -> str:
    """A line for each setting and comm dtype; adjusted for that, then for exact ghosts."""
    by_key = {
        tuple(row[name] for name in ("input_placement", "budget", "wire", "adjusted_for")): row
        for row in rows
    }
    lines = [
        "| input | budget | wire | bytes | accuracy | output error | not adjusted for it |",
        "|---" * 7 + "|",
    ]
    for placement, budget in SETTINGS:
        for comm_dtype in COMM_DTYPES:
            row, unadjusted = (
                by_key[placement, budget, comm_dtype, adjusted_for] for adjusted_for in (comm_dtype, EXACT)
            )
            cells = [f"{row['bytes']:,}", f"{row['test_accuracy']:.4f}", f"{row['test_output_error']:.5f}"]
            plain = f"{unadjusted['test_accuracy']:.4f}, {unadjusted['test_output_error']:.5f}"
            lines.append(f"| {placement} | {budget} | {comm_dtype} | {' | '.join(cells)} | {plain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
