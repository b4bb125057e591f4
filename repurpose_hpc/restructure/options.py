"""Options of restructuring."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repurpose_hpc.fields import (
    Access,
    Declared,
    FieldError,
    Kind,
    choice,
    integer,
    listed,
    number,
    option,
    shown,
    yes,
)
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT
from repurpose_hpc.plan.masks import GHOST, MIXED, PARTIAL, RELAY
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.restructure.method import FORMER, METHODS, Method, method_named
from repurpose_hpc.restructure.time_model import TimeModel

# Names of what may travel, and the forms of mixings that need it.
FORMS = {"ghosts": {GHOST}, "sums": {PARTIAL, MIXED}, "relays": {RELAY}}
ASSIGNMENTS = ("munkres", "contiguous", "random", "hypergraph")
# Likewise by hypergraph, but values count as often as they are not zero.
ACTIVE = "hypergraph-active"
# Instead of numbers, on a command line: those that suit a machine file.
AUTO = "auto"
# Aims of a promise; a command makes a model of the word for time.
VALUES, TIME = "values", "time"
# Price of a link inside a node, relative to one between nodes, in --link-cost nodes:K.
INSIDE_NODE = 0.1
# Values of a token that take a link of a gigabit as long as a round of exchanges, about 100 us.
ROUND_COST = 3000.0


def _is_prices(value: object) -> bool:
    """A word of a command line, which the command turns into prices, or rows of numbers."""
    if isinstance(value, str):
        return True
    try:
        return np.asarray(value, float).ndim == 2
    except (TypeError, ValueError):
        return False


def _plain_prices(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(map(tuple, np.asarray(value, float).tolist()))


_PRICES = Kind(
    "nodes:K or a table of prices", str, _is_prices, "nodes:4", plain=_plain_prices, access=Access.READS
)


def or_auto(kind: Kind) -> Kind:
    """Values of a kind, or the word of a command line that stands for some, which the command looks up."""
    return replace(
        kind,
        noun=f"{AUTO} or {kind.noun}",
        parse=lambda word: word if word == AUTO else kind.parse(word),
        accepts=lambda value: value == AUTO if isinstance(value, str) else kind.accepts(value),
        plain=lambda value: value if isinstance(value, str) else kind.plain(value),
    )


_AIM = replace(
    choice(VALUES, TIME), accepts=lambda value: isinstance(value, TimeModel) or value in (VALUES, TIME)
)


@dataclass(frozen=True)
class Options(Declared):
    """Wishes for a restructured network.

    Raises:
        FieldError: a value out of range.
    """

    workers: int = option(
        kind=integer(1),
        metavar="P",
        help="parts of the network",
        more="parts of the network; any number, also more than the network has outputs",
    )
    comm_budget: float = option(
        0.05,
        kind=number("a fraction", least=0, most=1, example=0.05),
        metavar="F",
        excludes="amount",
        help="largest fraction of the dense communication",
        more="values sent are at most this fraction of those of the dense network",
    )
    input_placement: str = option(
        "replicated",
        kind=choice(*PLACEMENTS),
        help="who can read the input: every rank, each its block, the root alone",
        more="`replicated`: every rank can read the input and reads just the columns it needs; "
        "`partitioned`: worker q holds block q of the input; `root`: rank 0 alone has it. Only in the last "
        "two cases does the input travel and count",
    )
    assignment: str = option(
        "munkres",
        kind=choice(*ASSIGNMENTS, ACTIVE),
        help="of neurons to workers",
        more="of neurons to workers. With `--comm-budget 1` `munkres` is `contiguous`, `hypergraph` looks "
        "for owners who send the least, and `hypergraph-active`, only there, counts values as often as they "
        "are not zero in the calibration data, as `infer --exchange sparse` sends them. Both also try "
        "Mt-KaHyPar if it is installed (extra `hypergraph`) ([how](docs/sparse.md#owners-by-hypergraph))",
    )
    method: str = option(
        "data",
        kind=choice(*METHODS),
        instead=FORMER,
        help="data: full method; the others are baselines",
        more="`data`: the full method. Baselines: `second-moment` scores columns by size and mean square of "
        "the input, once; `frobenius` by their size (G = I); both adjust the rest; `magnitude` keeps the "
        "columns of largest norm and adjusts nothing",
    )
    part_weights: tuple[float, ...] | None = option(
        None,
        kind=or_auto(listed(number(least=0), "finite numbers", example=(1.0, 2.0))),
        metavar="w0,w1,...|auto",
        default_text="equal",
        help="relative speed of each worker; auto: as probe measured the ranks",
        more="relative speeds of the workers: half the speed gets half the weights (its ghosts not counted, "
        "unless `--imbalance` is given), hence about 0.7 times the neurons where little is sent; 0: owns "
        "nothing. `auto`: those of the ranks that will host them, as `probe` measured them "
        "([how](docs/clusters.md#unequal-cores))",
    )
    seed: int = option(
        0,
        kind=integer(0),
        metavar="N",
        help="of random choices",
        more="of everything random; the same command gives the same shards, bit for bit",
    )
    lossless: bool = option(
        False,
        kind=yes(),
        help="first leave out all neurons and weights without which the outputs stay the same",
        more="first merge equal neurons, fold constant ones and leave out those that nothing reads: the "
        "outputs stay the same but for rounding. All else, budgets and fractions among it, is about what is "
        "left ([rules](docs/lossless.md))",
    )
    by_position: int | str = option(
        0,
        kind=or_auto(integer(0)),
        metavar="LAYERS|auto",
        help="first layers of maps that are shared out by rectangles of positions, with exact halos, instead "
        "of by channel",
        more="of the first LAYERS with weights those that make maps are shared out by position: a worker has "
        "all their weights and a rectangle of every map, and is sent its halo. That loses nothing and counts "
        "against the budget like all else. `auto` tries several numbers on held-out calibration samples, and "
        "with a promise takes the one that keeps it with the least communication "
        "([how](docs/convolutions.md#by-position))",
    )
    stages: int | str = option(
        1,
        kind=or_auto(integer(1)),
        metavar="S|auto",
        help="parts of consecutive layers, each shared by some workers; auto: as many as make most samples a "
        "second by the forecast for --machine",
        more="parts of consecutive layers, each shared by some of the workers and restructured among these. "
        "While a stage computes a batch the one before it computes the next. `auto`: as many as make most "
        "samples a second by the forecast for `--machine` and `--batch-size` ([how](docs/stages.md))",
    )
    imbalance: float | None = option(
        None,
        kind=number("a fraction", least=0, example=0.1),
        metavar="E",
        default_text="neurons are shared out fairly, ghosts and relays come on top",
        help="no worker holds more than its share of the weights by more than this fraction",
        more="no worker holds more than its share of the weights by more than this fraction: ghosts and "
        "relays that would be too many are left out (but for rounding and partial sums)",
    )
    memory_limits: tuple[float, ...] | None = option(
        None,
        kind=listed(number(above=0, finite=False), "numbers", example=(512.0, 512.0)),
        metavar="M0,M1,...",
        unit="MiB",
        default_text="no limits",
        help="memory of each worker for weights in float32",
    )
    link_costs: tuple[tuple[float, ...], ...] | None = option(
        None,
        kind=_PRICES,
        flag="--link-cost",
        metavar="FILE|nodes:K",
        default_text="all equal",
        help="price of a value sent from worker p to q: a text or .npy file of P rows of P, or nodes:K "
        f"for K workers per node, {INSIDE_NODE} inside and 1 between nodes",
        more="price of a value sent from worker p (row) to q: P rows of P numbers, 0 on the diagonal (text "
        f"or `.npy`), or `nodes:K`: K workers per node, {INSIDE_NODE} inside and 1 between nodes. The budget "
        "is then a fraction of the dense *cost*",
    )
    round_cost: float = option(
        0.0,
        kind=or_auto(number("a finite number", least=0, example=20000.0)),
        metavar="V|auto",
        unit="values",
        help="price of a round of exchanges; auto: that of a machine file",
        more="price of a round of exchanges, in values: an exchange that is not worth that much beside its "
        "values is left out, and what it would have sent is there for others. The budget is still one of "
        "values alone, but for transformers with texts. `auto`: that of the links in the machine file "
        "([how](docs/method.md#rounds))",
    )
    density: float = option(
        1.0,
        kind=number("a fraction", above=0, most=1, example=0.5),
        metavar="D",
        help="largest fraction of the weights kept, for less computation",
        more="largest fraction of the original weights that is kept, for less computation. Single weights "
        "are removed inside the workers' blocks, those first whose removal costs least, and no worker keeps "
        "more than its share. The run uses CSR only for blocks where that is faster",
    )
    compute_budget: float = option(
        1.0,
        kind=number("a fraction", above=0, most=1, example=0.5),
        metavar="F",
        default_text="1, no limit",
        help="largest fraction of its even share of the dense multiply-adds that a worker may do",
        more="no worker does more than this fraction of its share of the multiply-adds of the dense network; "
        "1: no limit. Whole inputs of a worker's blocks are removed, and neurons that nobody reads then, so "
        "that blocks stay dense and time falls with them ([how](docs/method.md#41-sparsify))",
    )
    max_accuracy_drop: float | None = option(
        None,
        kind=number("a number", above=0, below=100, example=0.5),
        metavar="PP",
        unit="percentage points",
        excludes="amount",
        remedy="the original network itself is comm_budget=1",
        help="instead: the least communication that loses at most so much accuracy on a part of DATA, which "
        "needs labels, that is held out",
        more="instead of a budget: the most accuracy that may be lost on held-out data; see "
        "[below](#a-promise-instead-of-a-knob)",
    )
    max_output_error: float | None = option(
        None,
        kind=number("a finite number", least=0, example=0.02),
        metavar="E",
        excludes="amount",
        help="instead: the least communication whose outputs have at most this relative error there",
        more="instead of a budget: the largest relative error of the outputs there",
    )
    minimise: str | TimeModel = option(
        VALUES,
        kind=_AIM,
        help="of what a promise looks for the least: values sent, or the time modelled of a machine",
        more="of what a promise looks for the least: `values` sent, or the modelled `time` of a sample on "
        "the machine `--machine`, over budgets of communication and of computation, with `--round-cost auto` "
        "unless a number is given ([how](docs/method.md#least-time))",
    )
    output_weights: tuple[float, ...] | None = option(
        None,
        kind=listed(number(least=0), "finite numbers", example=(1.0, 10.0)),
        metavar="w0,w1,...",
        default_text="equal",
        help="what the squared error of each output, or of each column of them, counts",
        more="what the squared error of each output counts, one number for each output of the model or one "
        "for each column of them all; 0: not at all. They weigh the metric of the full method, the output "
        "error and promises on it ([how](docs/method.md#weights-of-the-outputs)); not the accuracy",
    )
    comm_dtype: str = option(
        EXACT,
        kind=choice(*COMM_DTYPES),
        aliases=("--wire",),
        help="format in which ghosts and relays travel; the adjustment takes its rounding into account",
        more="format in which ghosts and relays travel: `float32` (as they are), `bfloat16`, `float16`, or "
        "`int8` and `int4` with a scale for each neuron, but for outliers; partial sums stay as they are. "
        "The weights are adjusted for it, errors and promises are measured with it. The budget counts "
        "values, not bytes. [What it costs](docs/method.md#fewer-bytes)",
    )

    late: int | None = option(
        None,
        kind=integer(1),
        metavar="K",
        default_text="the exact order",
        help="adjust weights to late exchanges: shards run in K sweeps, K - 1 rounds of messages",
        more="make shards that run in K sweeps, K - 1 rounds of messages, as `infer --exchange-late K` does, "
        "with weights for each sweep that are adjusted to ghosts of the one before. The budget is that of "
        "the exact order, and is sent up to K - 1 times ([how](docs/late.md))",
    )
    forms: tuple[str, ...] | None = option(
        None,
        kind=listed(choice(*FORMS), f"some of {', '.join(FORMS)}", example=("ghosts", "relays")),
        metavar="FORM,...",
        default_text="all; no relays with --density, --compute-budget, --imbalance, --late or a --method "
        "other than data",
        help="what may travel: ghosts, sums, relays (combinations of a worker's neurons)",
        more="what may travel, `ghosts` among it: `ghosts` (neurons), `sums` (partial sums of rows) and "
        "`relays` (combinations of a worker's neurons, which say more for a value; not of grouped "
        "convolutions). [How](docs/method.md#relays)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_forms()
        if self.density < 1 and self.compute_budget < 1:
            raise FieldError(
                "density and compute_budget",
                "expected one of them below 1, got both; the first removes weights, the second whole columns",
            )
        if self.part_weights is not None:
            check_part_weights(self.part_weights, self.workers)
        if self.output_weights is not None and sum(self.output_weights) == 0:
            raise FieldError(
                "output_weights",
                f"expected weights that are not all 0, got {shown(self.output_weights)}; let an output count",
            )
        check_round_cost(self.round_cost)
        self._check_assignment()
        self._check_aim()
        self._check_late()
        self._check_stages()
        if self.memory_limits is not None:
            _check_length("memory_limits", self.memory_limits, self.workers)
        if self.link_costs is not None:
            self._check_link_costs(self.link_costs)
        if self.max_accuracy_drop is not None and self.max_output_error is not None:
            raise FieldError(
                "max_accuracy_drop and max_output_error", "expected one of them, got both; leave one out"
            )

    @property
    def keeps_everything(self) -> bool:
        """True if nothing needs to be eliminated."""
        return self.comm_budget == 1 and not self.limits_work and self.memory_limits is None

    @property
    def by_hypergraph(self) -> bool:
        """True if owners are parts of a hypergraph."""
        return self.assignment in ("hypergraph", ACTIVE)

    @property
    def limits_work(self) -> bool:
        """True if workers compute, or keep of the weights, no more than a fraction of the original's."""
        return self.density < 1 or self.compute_budget < 1

    @property
    def limits_relays(self) -> bool:
        """True if what relays compute, or weigh, counts against a limit."""
        return self.limits_work or self.imbalance is not None

    @property
    def may_travel(self) -> tuple[str, ...]:
        """What may travel, of ``FORMS``.

        Unless forms are named, relays are left out where what they compute or weigh is limited: that is not
        looked at when they are chosen.  Late exchanges have none.
        """
        if self.forms is not None:
            return self.forms
        relays = self.method == "data" and not self.limits_relays and self.late is None
        return tuple(name for name in FORMS if name != "relays" or relays)

    @property
    def promises(self) -> bool:
        """True if a tolerance is given instead of a budget."""
        return self.max_accuracy_drop is not None or self.max_output_error is not None

    @property
    def found(self) -> tuple[str, ...]:
        """The fields that a promise finds a value for."""
        if not self.promises:
            return ()
        return ("comm_budget",) if self.minimise == VALUES else ("comm_budget", "compute_budget")

    def _check_forms(self) -> None:
        forms = self.may_travel
        if "ghosts" not in forms or len({*forms}) < len(forms):
            raise FieldError(
                "forms",
                f"expected ghosts and others, each once, got {shown(forms)}; inputs that every worker "
                "reads are ghosts",
            )
        if "relays" in forms and self.method != "data":
            raise FieldError(
                "forms",
                f"expected no relays with method {self.method}, which does not look for combinations; leave "
                "relays out, or take method=data",
            )

    def _check_assignment(self) -> None:
        if self.assignment == ACTIVE and not self.keeps_everything:
            raise FieldError(
                "assignment",
                f"expected comm_budget=1 for {ACTIVE}, and no promise, density, compute_budget or "
                f"memory_limits, so that nothing is pruned, found comm_budget={self.comm_budget:g} or one of "
                "the others; take assignment=hypergraph, or leave out what prunes",
            )

    def _check_late(self) -> None:
        if self.late is None:
            return
        for field, is_right, expected in (
            ("forms", "relays" not in self.may_travel, "no relays"),
            ("by_position", not self.by_position, "no maps shared out by position"),
            ("stages", self.stages == 1, "one stage"),
            ("comm_dtype", self.comm_dtype == EXACT, EXACT),
            ("method", self.method == "data", "data, which adjusts to what arrives,"),
        ):
            if not is_right:
                found = shown(getattr(self, field))
                raise FieldError(
                    field, f"expected {expected} with late={self.late}, got {found}; leave one of them out"
                )

    def _check_stages(self) -> None:
        if self.stages == 1:
            return
        if isinstance(self.stages, str):
            raise FieldError(
                "stages",
                f"expected a number, got {self.stages!r}; words are for command lines: give a number, "
                "such as 2",
            )
        if self.stages > self.workers:
            raise FieldError(
                "stages",
                f"expected at most workers={self.workers}, as every stage needs one, got {self.stages}; ask "
                "for fewer",
            )
        others = {
            "by_position": bool(self.by_position),
            "assignment": self.by_hypergraph and self.keeps_everything,
        }
        for name, is_set in others.items():
            if is_set:
                raise FieldError(
                    f"stages and {name}",
                    "expected one of them, as both say which workers share a layer, got both; leave one out",
                )

    def _check_aim(self) -> None:
        if self.minimise == TIME:
            raise FieldError(
                "minimise",
                f"expected {VALUES} or a model of time, got {TIME!r}; words are for command lines: give a "
                "model, such as forecast.modelled.ModelledTime of a machine",
            )
        if self.minimise != VALUES and not self.promises:
            raise FieldError(
                "minimise",
                "expected a promise, whose search looks for the least time, found a budget; add "
                "max_accuracy_drop=0.5 or max_output_error=0.02",
            )

    def _check_link_costs(self, costs: tuple[tuple[float, ...], ...]) -> None:
        if isinstance(costs, str):
            raise FieldError(
                "link_costs",
                f"expected {self.workers} rows of {self.workers} prices, got {costs!r}; words are for "
                "command lines: give a table, for two workers link_costs=((0, 1), (1, 0))",
            )
        if [len(row) for row in costs] != [self.workers] * self.workers:
            raise FieldError(
                "link_costs",
                f"expected {self.workers} rows of {self.workers} prices, one for each pair of workers, got "
                f"{len(costs)} rows of {sorted({len(row) for row in costs})}; add or remove prices, or "
                f"change workers={len(costs)}",
            )
        for p, row in enumerate(costs):
            for q, cost in enumerate(row):
                if (cost != 0) if p == q else not 0 < cost < math.inf:
                    raise FieldError(
                        "link_costs",
                        "expected finite prices above 0 between workers, 0 on the diagonal, "
                        f"found {cost} from worker {p} to {q}; change that one",
                    )


def method_for(options: Options) -> Method:
    """The method that the options name, with the forms that they allow."""
    allowed = frozenset().union(*(FORMS[name] for name in options.may_travel))
    method = method_named(options.method)
    return replace(method, forms=(method.forms | {RELAY}) & allowed)


def check_part_weights(weights: tuple[float, ...], workers: int) -> None:
    """Refuse relative speeds that are not numbers, one for each worker, or all 0.

    Raises:
        FieldError: they are such.
    """
    if isinstance(weights, str):
        raise FieldError(
            "part_weights",
            f"expected a number for each of {workers} workers, got {weights!r}; words are for "
            "command lines: give numbers, such as runtime.balance.part_weights makes of rates of ranks",
        )
    _check_length("part_weights", weights, workers)
    if sum(weights) == 0:
        raise FieldError(
            "part_weights",
            f"expected weights that are not all 0, got {shown(weights)}; somebody must own the neurons",
        )


def check_round_cost(cost: float) -> None:
    """Refuse a price that is a word of command lines.

    Raises:
        FieldError: it is one.
    """
    if isinstance(cost, str):
        raise FieldError(
            "round_cost",
            f"expected a number of values, got {cost!r}; words are for command lines: give a "
            "number, such as forecast.round_cost makes of a machine",
        )


def _check_length(name: str, values: tuple[float, ...], workers: int) -> None:
    if len(values) != workers:
        raise FieldError(
            name,
            f"expected one number for each of {workers} workers, got {len(values)}; separate them "
            "by commas, without spaces",
        )
