"""The command ``study``: accuracy against communication, for every method, as a table and a picture.

It runs in one process, whose threads share the work.  Every finished point is on disk before the next begins,
and is not computed again.  Several processes can share a study: each has a part of the points and a table for
it, so that no two write to the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import SPIKING, make, parser_maker
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.fields import (
    Access,
    Declared,
    Kind,
    count,
    integer,
    like,
    listed,
    number,
    option,
    path,
    text,
    typed,
)
from repurpose_hpc.io.lock import alone_at
from repurpose_hpc.io.progress import say
from repurpose_hpc.io.speech import tell
from repurpose_hpc.model.importers.input_shapes import option_of_shapes, shapes_of
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.restructure.options import METHODS, Options
from repurpose_hpc.studies.plots import draw

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context
    from repurpose_hpc.studies.accuracy.table import AccuracyTable


def run(args: Arguments, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: files that do not fit, or points that failed.
    """
    points = args.points
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.restructure.team import Team
    from repurpose_hpc.studies.accuracy.study import compute, open_study
    from repurpose_hpc.studies.accuracy.table import AccuracyTable

    shapes = shapes_of(args.input_shape)
    study = open_study(args.model, args.calibration, args.test, shapes, args.spiking)
    for samples in (study.calibration, study.test):
        if samples.meaning is not None:
            say(f"y of {samples.name}: {samples.meaning.line}")
    path = args.out / f"{args.name}.csv"
    with alone_at(path):
        table = AccuracyTable(path, study.origin())
        for file in sorted(set(args.out.glob("study*.csv")) - {table.path}):
            table.take_over(AccuracyTable(file, study.origin()))
        finished = sum(table.find(options) is not None for options in points)
        say(f"{count(len(points), 'point')}, {finished} of them already in {table.path}")
        failed = compute(study, points, table, Team(threads=context.threads), say)
        done = f"{count(len(points) - failed, 'point')} in {table.path}"
        tell({"study": study.origin(), "points": table.rows}, done)
        if args.part is None:
            _draw(table)
    if failed:
        raise UserError(
            f"{failed} of {count(len(points), 'point')} failed, see column error of {table.path}; "
            "mend what it says and run the same command again: it computes only those"
        )


def _draw(table: AccuracyTable) -> None:
    draw(
        table.path.with_suffix(".png"),
        "repurpose_hpc.studies.accuracy.plot",
        table.rows,
        "no point sends anything",
    )


def _parts(word: str) -> tuple[int, int]:
    part, _, parts = word.partition("/")
    return int(part), int(parts)


def _is_part(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and 1 <= value[0] <= value[1]


# ``Options`` checks the names of methods.
_METHOD = text("a method", "data")


_PART = Kind("K/N with K from 1 to N", _parts, _is_part, (1, 2))


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The files of a study, and the options in which its points differ."""

    model: Path = option(
        kind=path("model.npz"),
        positional=True,
        help=".npz, .safetensors, .onnx, .nir, .gguf, or a directory of sparse matrices",
    )
    calibration: Path = option(kind=path("samples.npz"), metavar="DATA", help="samples to restructure with")
    test: Path = option(kind=path("test.npz"), metavar="DATA", help="samples that only report")
    out: Path = option(kind=path("study", Access.ADDS), metavar="DIR", help="gets study.csv and study.png")
    input_shape: tuple[str, ...] = option_of_shapes()
    workers: tuple[int, ...] = option(
        kind=listed(integer(1), "integers", (2, 8)), metavar="P,P,...", help="numbers of parts"
    )
    methods: tuple[str, ...] = option(
        kind=listed(_METHOD, "methods M or M/A", ("data", "magnitude/contiguous")),
        metavar="M,M,...",
        help=f"of {', '.join(METHODS)}; M/A takes the assignment A",
        more="as of `restructure`; `M/A` takes the assignment A, the others that of `--assignment`",
    )
    budgets: tuple[float, ...] = option(
        (0.2, 0.1, 0.05, 0.02, 0.01),
        kind=listed(number(least=0, most=1), "fractions", (0.1, 0.02)),
        metavar="F,F,...",
        help="communication fractions",
    )
    input_placement: str = like(Options, "input_placement", more="as of `restructure`")
    assignment: str = like(Options, "assignment", help="of the methods that name none")
    by_position: int | str = like(Options, "by_position", more="as of `restructure`")
    seed: int = like(Options, "seed", more="as of `restructure`")
    part: tuple[int, int] | None = option(
        None,
        kind=_PART,
        metavar="K/N",
        help="only the Kth of N parts of the points, in a table of its own, so that N processes can share "
        "the work; the same command without it takes over what they found",
    )
    spiking: SpikingOptions = SpikingOptions()

    @property
    def name(self) -> str:
        """Name of the table, without its ending."""
        return "study" if self.part is None else "study-{}-of-{}".format(*self.part)

    @property
    def points(self) -> list[Options]:
        """Every combination once, in the order of computing.

        Raises:
            UsageError: a combination cannot be meant.
        """
        points = list(
            dict.fromkeys(
                self._point(workers, method, budget)
                for workers in self.workers
                for method in self.methods
                for budget in self.budgets
            )
        )
        if self.part is None:
            return points
        part, parts = self.part
        return points[part - 1 :: parts]

    def _point(self, workers: int, method: str, budget: float) -> Options:
        name, _, assignment = method.partition("/")
        try:
            return Options(
                workers=workers,
                comm_budget=budget,
                input_placement=self.input_placement,
                assignment=assignment or self.assignment,
                method=name,
                by_position=self.by_position,
                seed=self.seed,
            )
        except UserError as error:
            raise UsageError(
                f"{count(workers, 'worker')}, method {method}, budget {budget}: {typed(error)}"
            ) from None


make_parser = parser_maker("study", Arguments, titled={SPIKING: SpikingOptions})


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> Arguments:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
    """
    given = make_parser(speaks).read(argv)
    return make(Arguments, given, spiking=make(SpikingOptions, given))
