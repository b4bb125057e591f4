"""The command ``scaling``: time against the number of ranks, dense beside restructured.

It runs in one process, without MPI.  For each number of ranks it restructures and starts the command
``point`` under the launcher.  Every finished point is on disk before the next begins, and is not measured
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import SPIKING, make, parser_maker, refuse
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import count, declarations
from repurpose_hpc.io.lock import alone_at
from repurpose_hpc.io.progress import say
from repurpose_hpc.io.speech import tell
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.studies.plots import draw
from repurpose_hpc.studies.scaling.options import WEAK, ScalingOptions
from repurpose_hpc.studies.scaling.table import ScalingTable

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context


def run(args: ScalingOptions, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: files that do not fit, or points that failed.
    """
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.restructure.team import Team
    from repurpose_hpc.studies.scaling.launches import Launch, Launches
    from repurpose_hpc.studies.scaling.study import open_study

    study = open_study(args)
    origin = {"kind": args.kind, **study.origin(), "launcher": args.launcher}
    rows = [(ranks, form, batch) for ranks, form in args.points for batch in args.batch_sizes]
    launch = Launch(args.launcher, args.repeat, args.seconds, args.timeout)
    path = args.out / "scaling.json"
    with alone_at(path):
        table = ScalingTable(path, origin)
        finished = sum(table.finished(*row) is not None for row in rows)
        say(f"{count(len(rows), 'point')}, {finished} of them already in {table.path}")
        launches = Launches(study, table, launch, Team(threads=context.threads), say)
        failed = launches.run(args.points, args.batch_sizes)
        done = f"{count(len(rows) - failed, 'point')} in {table.path} and {table.path.with_suffix('.csv')}"
        tell({"study": table.study, "points": table.rows}, f"{table.summary()}\n{done}")
        _draw(table)
    if failed:
        raise UserError(
            f"{failed} of {count(len(rows), 'point')} failed, see column error of "
            f"{table.path.with_suffix('.csv')}; mend what it says and run the same command again: it "
            "measures only those"
        )


def _draw(table: ScalingTable) -> None:
    draw(table.path.with_suffix(".png"), "repurpose_hpc.studies.scaling.plot", table, "every point failed")


make_parser = parser_maker("scaling", ScalingOptions, titled={SPIKING: SpikingOptions})


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> ScalingOptions:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
    """
    parser = make_parser(speaks)
    given = parser.read(argv)
    if given["kind"] == WEAK and "model" in given:
        parser.error("weak scaling grows a synthetic network (--width, --layers): MODEL is for strong")
    if "model" not in given:
        refuse(
            given,
            ("calibration", "shards", "method", "assignment", "input_shape", *declarations(SpikingOptions)),
            "belongs to a MODEL; without one, a synthetic network is cut where its weights are smallest",
        )
    else:
        refuse(given, ("width", "layers"), "is that of the synthetic network, measured without MODEL")
        if ("calibration" in given) == ("shards" in given):
            parser.error("a MODEL needs either --calibration DATA, to be restructured, or --shards PATTERN")
    if "shards" in given:
        restructuring = ("method", "assignment", "comm_budget")
        refuse(given, restructuring, "has no effect: --shards are restructured already")
    return make(ScalingOptions, given, spiking=make(SpikingOptions, given))
