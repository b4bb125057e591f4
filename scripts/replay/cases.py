"""The table of what both trees do: some restructurings, and some runs of what they made.

Not every combination: each value of an option stands in some row, next to others in each.  Only options that
the README promises are used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restructuring:
    """A restructuring.

    Attributes:
        name: of its shards.
        network: one of ``networks.NETWORKS``.
        options: of ``restructure``, but for the model, its data and where the shards go.
        ranks: that share the work; 0: no launcher.
    """

    name: str
    network: str
    options: str
    ranks: int = 0


@dataclass(frozen=True)
class Run:
    """An inference.

    Attributes:
        source: name of the ``Restructuring`` whose shards are run, or a network, to be restructured first.
        ranks: of the job.
        options: of ``infer``, but for its input and output.
    """

    source: str
    ranks: int
    options: str = ""

    @property
    def name(self) -> str:
        """Name of the case in messages."""
        return " ".join(["infer", self.source, f"ranks:{self.ranks}", *self.options.split()])


CUTS = (
    Restructuring("bundled-4", "bundled", "--workers 4"),
    Restructuring("bundled-3", "bundled", "--workers 3 --method magnitude --input-placement partitioned"),
    Restructuring("uneven-data", "uneven", "--workers 3 --comm-budget 0.2 --input-placement partitioned"),
    Restructuring(
        "uneven-float64",
        "uneven",
        "--workers 5 --dtype float64 --input-placement root --comm-budget 0.3 --seed 3",
    ),
    Restructuring(
        "uneven-second",
        "uneven",
        "--workers 4 --method second-moment --assignment contiguous --comm-budget 0.3",
    ),
    Restructuring(
        "uneven-density",
        "uneven",
        "--workers 3 --density 0.3 --imbalance 0.1 --input-placement partitioned --comm-budget 0.2",
    ),
    Restructuring("uneven-promise", "uneven", "--workers 3 --max-output-error 0.3 --input-placement root"),
    Restructuring("uneven-dense", "uneven", "--workers 4 --comm-budget 1 --input-placement partitioned"),
    Restructuring("uneven-alone", "uneven", "--workers 3 --comm-budget 0"),
    Restructuring("uneven-speeds", "uneven", "--workers 4 --part-weights 1,2,0.5,0 --link-cost nodes:2"),
    Restructuring("uneven-memory", "uneven", "--workers 3 --memory-limits 0.003,0.004,1 --comm-budget 0.3"),
    Restructuring(
        "activations-data",
        "activations",
        "--workers 3 --comm-budget 0.3 --input-placement partitioned",
        ranks=2,
    ),
    Restructuring(
        "activations-int8",
        "activations",
        "--workers 4 --method frobenius --assignment random --comm-budget 0.5 --wire int8",
    ),
    Restructuring(
        "convolutions-data", "convolutions", "--workers 3 --comm-budget 0.2 --input-placement partitioned"
    ),
    Restructuring(
        "convolutions-density",
        "convolutions",
        "--workers 4 --density 0.4 --input-placement root --comm-budget 0.3 --wire bfloat16",
    ),
    Restructuring(
        "residual-data", "residual", "--workers 4 --comm-budget 0.2 --input-placement partitioned", ranks=2
    ),
    Restructuring(
        "residual-second",
        "residual",
        "--workers 3 --method second-moment --assignment random --seed 1 --wire int8 --comm-budget 0.4",
    ),
    Restructuring("branches-data", "branches", "--workers 3 --comm-budget 0.3 --input-placement partitioned"),
    Restructuring(
        "branches-magnitude",
        "branches",
        "--workers 4 --method magnitude --assignment contiguous --comm-budget 0.4 --input-placement root",
    ),
    Restructuring("outputs-data", "outputs", "--workers 3 --comm-budget 0.2 --input-placement root"),
    Restructuring(
        "outputs-frobenius", "outputs", "--workers 4 --method frobenius --comm-budget 0.4 --dtype float64"
    ),
    Restructuring(
        "normalisations-data", "normalisations", "--workers 3 --comm-budget 0.4 --input-placement partitioned"
    ),
    Restructuring(
        "normalisations-magnitude",
        "normalisations",
        "--workers 5 --method magnitude --assignment random --comm-budget 0.5 --imbalance 0.5",
    ),
)

RUNS = (
    Run("bundled-4", 2, "--batch-size 64"),
    Run("bundled-3", 3, "--exchange shared --batch-size 200 --weights-dtype int8"),
    Run("uneven-data", 3, "--exchange ialltoallv --verify"),
    Run("uneven-data", 2, "--exchange auto --batch-size 1"),
    Run("uneven-float64", 2, "--dtype float64 --exchange alltoallv --verify"),
    Run("uneven-float64", 3, "--exchange p2p --micro-batches 3 --batch-size 37"),
    Run("uneven-second", 1, "--threads 2"),
    Run("uneven-density", 1, "--threads 2 --micro-batches 2 --batch-size 150"),
    Run("uneven-promise", 2, "--exchange neighbor"),
    Run("uneven-dense", 4, "--exchange sparse --batch-size 100"),
    Run("uneven-alone", 2, "--weights-dtype bfloat16"),
    Run("uneven-speeds", 4, "--exchange shared"),
    Run("uneven-memory", 3, "--wire int8 --exchange p2p"),
    Run("activations-data", 3, "--exchange p2p --micro-batches 2"),
    Run("activations-int8", 3, "--exchange sparse"),
    Run("activations-int8", 2, "--exchange persistent --wire float32 --batch-size 7"),
    Run("convolutions-data", 3, "--exchange alltoallv --batch-size 50"),
    Run("convolutions-data", 1, "--threads 2"),
    Run("convolutions-density", 2, "--exchange shared --micro-batches 2"),
    Run("residual-data", 2, "--exchange neighbor --batch-size 33"),
    Run("residual-second", 3, "--exchange ialltoallv --micro-batches 3"),
    Run("branches-data", 3, "--exchange sparse --micro-batches 2"),
    Run("branches-magnitude", 2, "--exchange p2p --wire float16"),
    Run("outputs-data", 3, "--exchange persistent"),
    Run("outputs-frobenius", 2, "--dtype float64"),
    Run("normalisations-data", 3, "--exchange neighbor --batch-size 90"),
    Run("normalisations-magnitude", 2, "--exchange persistent"),
    Run("outputs", 2, "--workers 3 --comm-budget 0.3 --input-placement partitioned"),
    Run("residual", 3, "--method magnitude --comm-budget 0.3 --wire bfloat16"),
)
