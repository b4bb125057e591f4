"""Keys of the JSON reports of all commands, each declared once with its type, meaning and unit.

A report is a ``TypedDict``; keys that are not always there stand in classes with ``total=False``, and
``Key.when`` says when they are.  From here follow docs/formats.md (``scripts/tables.py``) and the tests that
every command reports exactly these keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict


@dataclass(frozen=True)
class Key:
    """Meaning of a key.

    Attributes:
        text: what it says.
        unit: of its value.
        when: when it is there; "": always.
    """

    text: str
    unit: str = ""
    when: str = ""


class _Delivered(TypedDict, total=False):
    command: Annotated[
        str,
        Key(
            "the command line, as it was typed, without a launcher",
            when="in files and on standard output; not where the library returns a report",
        ),
    ]


class Percentiles(TypedDict):
    """Percentiles of a time."""

    median: Annotated[float, Key("half of the forwards took no longer", "µs")]
    p10: Annotated[float, Key("10th percentile", "µs")]
    p90: Annotated[float, Key("90th percentile", "µs")]


class Phases(TypedDict):
    """Times by phase of a forward."""

    compute: Annotated[float, Key("products and other operations", "µs")]
    pack: Annotated[float, Key("packing and unpacking of messages", "µs")]
    exchange: Annotated[float, Key("starting messages", "µs")]
    wait: Annotated[float, Key("waiting for messages", "µs")]


class _Traffic(TypedDict):
    values_sent: Annotated[int, Key("values handed to MPI, counted", "values per sample")]
    dense_values: Annotated[int, Key("the same with nothing pruned", "values per sample")]
    comm_fraction: Annotated[float, Key("values_sent over dense_values")]
    bytes_sent: Annotated[int, Key("bytes handed to MPI", "bytes per sample")]
    messages: Annotated[int, Key("messages of a forward of a batch")]
    rounds: Annotated[int, Key("rounds of exchanges of a forward, one after the other")]


class _Run(TypedDict):
    ranks: Annotated[int, Key("MPI processes")]
    groups: Annotated[int, Key("groups of ranks that hold a copy of the network each")]
    workers: Annotated[int, Key("parts of the network")]
    samples: Annotated[int, Key("samples of the input")]
    batch_size: Annotated[int, Key("samples per forward")]
    micro_batches: Annotated[int, Key("parts in which a batch goes through the network")]
    threads_per_rank: Annotated[int, Key("threads that share the rows of every product")]
    deterministic: Annotated[bool, Key("whether outputs have the same bits for any ranks and batches")]
    blas_threads: Annotated[str, Key("threads of BLAS per rank, as the environment says")]
    dtype: Annotated[str, Key("numbers that are computed in")]
    comm_dtype: Annotated[str, Key("format in which ghost neurons travel")]
    weights_dtype: Annotated[str, Key("format in which weights are kept in memory")]
    exchange: Annotated[str, Key("transport of the exchanges")]
    input_placement: Annotated[str, Key("who can read the input")]
    shards: Annotated[str, Key("directory of the shards")]
    cached: Annotated[bool, Key("whether the shards were in the cache")]
    output: Annotated[str | None, Key("file of the outputs; null: none")]


class _RunWeights(TypedDict):
    weights: Annotated[int, Key("weights of the dense network")]
    weights_kept: Annotated[int, Key("weights of the restructured network")]
    load: Annotated[list[int], Key("weights of each rank of a group")]
    load_share: Annotated[list[float], Key("share of each rank of a group in weights_kept")]
    formats: Annotated[dict[str, dict[str, int]], Key("blocks by format, for each layer")]


class _RunTimes(TypedDict):
    throughput: Annotated[float, Key("speed of the whole run, all groups together", "samples per second")]
    seconds: Annotated[
        dict[str, float],
        Key(
            "time by phase, the maximum over the ranks: import (from the start of the process until MPI and "
            "all modules are there), load, jit, input, output, check, compute, pack, exchange, wait",
            "s",
        ),
    ]
    peak_memory_mib: Annotated[float, Key("resident memory, the maximum over the ranks", "MiB")]


class _Quality(TypedDict, total=False):
    labels: Annotated[
        str,
        Key("what y means: classes, multilabel or targets, or that it is left alone", when="with y"),
    ]
    labels_note: Annotated[str, Key("how that was seen, one line", when="with y")]
    accuracy: Annotated[
        float,
        Key(
            "share of samples, or of their single labels, that are classified rightly",
            when="with classes or labels",
        ),
    ]
    reference_accuracy: Annotated[
        float,
        Key("the same before restructuring", when="with classes or labels, where that network is known"),
    ]
    rmse: Annotated[
        float,
        Key("root mean square error of the outputs against targets", "of the targets", when="with targets"),
    ]
    reference_rmse: Annotated[
        float,
        Key(
            "the same before restructuring",
            "of the targets",
            when="with targets, where that network is known",
        ),
    ]
    r2: Annotated[
        float | None,
        Key("1 − squared error / variance of the targets; null: they do not vary", when="with targets"),
    ]
    reference_r2: Annotated[
        float | None,
        Key("the same before restructuring", when="with targets, where that network is known"),
    ]


class _RunBalance(TypedDict, total=False):
    compute_seconds: Annotated[
        list[float],
        Key(
            "time that each rank computed, without waiting, in all forwards of the stream",
            "s",
            when="if every rank with weights has computed something",
        ),
    ]
    compute_imbalance: Annotated[
        float, Key("that of the busiest rank over the mean of the ranks; 1: even", when="likewise")
    ]
    suggested_part_weights: Annotated[
        list[float],
        Key(
            "`--part-weights` with which ranks would have computed equally long: load over time",
            when="likewise",
        ),
    ]


class _Verified(TypedDict, total=False):
    max_abs_difference: Annotated[
        float, Key("largest difference from the float64 reference", when="with `--verify`")
    ]
    relative_difference: Annotated[
        float, Key("the same over the largest output of the reference", when="with `--verify`")
    ]
    relative_rounding: Annotated[
        float,
        Key(
            "that of NumPy in float32, on the batches where the run's was above the tolerance: how much the "
            "network amplifies rounding errors",
            when="with `--verify`, where there were any",
        ),
    ]


class StageLayers(TypedDict):
    """A stage: consecutive layers, and who computes them."""

    layers: Annotated[list[str], Key("names of its layers, in order")]
    workers: Annotated[list[int], Key("workers that share them")]


class _RunOptional(_Quality, _Verified, total=False):
    exchange_us: Annotated[
        dict[str, float],
        Key("latency by transport", "µs", when="with `--exchange auto`, on several ranks of a group"),
    ]
    sent_bytes_per_sample: Annotated[
        float,
        Key(
            "what was left of bytes_sent without zeros, the mean over the samples streamed",
            "bytes per sample",
            when="where the transport is sparse",
        ),
    ]
    certified: Annotated[
        float,
        Key("share of samples whose class provably is that of the original network", when="with `--certify`"),
    ]
    latency_us: Annotated[Percentiles, Key("forward of the first batch", when="unless `--repeat 0`")]
    phases_us: Annotated[Phases, Key("medians on the slowest rank", when="unless `--repeat 0`")]
    single_process_latency_us: Annotated[
        Percentiles, Key("the same batch in one process", when="unless `--repeat 0`")
    ]
    speedup: Annotated[float, Key("over one process; below 1: that is faster", when="unless `--repeat 0`")]
    forecast_us: Annotated[
        float,
        Key(
            "forecast of the latency, by which the number of workers was chosen",
            "µs",
            when="of shards of `--workers auto`, run by as many ranks in batches as large as forecast",
        ),
    ]
    forecast_error: Annotated[
        float, Key("median of latency_us over forecast_us, less 1", when="likewise, unless `--repeat 0`")
    ]
    first_result_seconds: Annotated[
        float,
        Key(
            "from the start of the process to the end of its first forward, imports and JIT included, the "
            "maximum over the ranks",
            "s",
            when="unless an earlier run had finished all samples",
        ),
    ]
    resumed_samples: Annotated[int, Key("samples that an earlier run had finished", when="with `--resume`")]
    stages: Annotated[
        list[StageLayers], Key("stages, with what they compute, in order", when="with more than one stage")
    ]
    sweeps: Annotated[
        int,
        Key(
            "sweeps of a forward, each from what others had in the one before",
            when="with `--exchange-late`, or of shards made with `--late`",
        ),
    ]
    sweeps_exact: Annotated[
        int,
        Key("sweeps after which outputs are exact, a rank for every worker", when="with `--exchange-late`"),
    ]
    signal: Annotated[SignalPieces, Key("the signal, whose pieces are the samples", when="with `--signal`")]


class SignalPieces(TypedDict):
    """A signal and the pieces in which it is run."""

    positions: Annotated[int, Key("of the signal, along time")]
    outputs: Annotated[int, Key("along time, for all of it")]
    piece: Annotated[int, Key("positions of a piece")]
    advance: Annotated[int, Key("positions from one piece to the next")]


class ImportCheck(TypedDict):
    """Comparison of an imported network with its file."""

    evaluator: Annotated[str | None, Key("program that was compared with; null: none can run the model")]
    largest_difference: Annotated[
        float | None,
        Key(
            "of an output, relative to the largest of its sample, jumps and overflow left out; null: no "
            "comparison"
        ),
    ]
    reason: Annotated[str | None, Key("why there was no comparison; null: there was one")]


class _Imported(TypedDict, total=False):
    import_check: Annotated[
        ImportCheck,
        Key(
            "comparison of the network with the file, by a program that is not ours",
            when="if an `.onnx` MODEL is restructured, unless `--no-check`",
        ),
    ]


class InferReport(_Delivered, _Run, _Traffic, _RunWeights, _RunTimes, _RunBalance, _RunOptional, _Imported):
    """Report of ``infer``: one run of a restructured network; qualities are those on the input.

    The root needs memory for the whole network, unless ``--repeat 0`` and neither ``--verify`` nor
    ``--certify`` ask for it.
    """


class _Layer(TypedDict):
    name: Annotated[str, Key("name of the mixing")]
    form: Annotated[str, Key("what travels: ghosts, partial sums, both, or relays; `position`: halos")]
    inputs: Annotated[int, Key("neurons that it reads")]
    outputs: Annotated[int, Key("neurons that it makes")]
    values_sent: Annotated[int, Key("values that cross", "values per sample")]
    relays: Annotated[int, Key("how many of these are of relays", "values per sample")]
    dense_values: Annotated[int, Key("the same with nothing pruned", "values per sample")]
    inputs_removed: Annotated[int, Key("neurons of its source that nobody reads, nor computes")]
    relative_error: Annotated[
        float, Key("error of the outputs that it computes on the calibration data, relative to them")
    ]


class Layer(_Layer, total=False):
    """A mixing of a restructured network."""

    relative_error_held_out: Annotated[
        float, Key("relative_error on the held-out samples", when="if there are any")
    ]


class _Output(TypedDict):
    name: Annotated[str, Key("name of the output")]
    columns: Annotated[int, Key("values per sample")]
    error: Annotated[float, Key("error before the head on the calibration data, relative to them")]


class Output(_Output, total=False):
    """An output of a restructured network."""

    column_errors: Annotated[
        list[float], Key("the same of each column", when="if the network has no more than 32")
    ]


class _Restructured(TypedDict):
    workers: Annotated[int, Key("parts of the network")]
    part_weights: Annotated[
        list[float], Key("relative speeds of the workers, those that `auto` stood for as well")
    ]
    input_placement: Annotated[str, Key("who can read the input")]
    values_sent: Annotated[int, Key("values that cross between workers", "values per sample")]
    dense_values: Annotated[int, Key("the same with nothing pruned", "values per sample")]
    comm_fraction: Annotated[float, Key("values_sent over dense_values")]
    rounds: Annotated[int, Key("rounds of exchanges, one after the other, with a rank for every worker")]
    round_cost: Annotated[float, Key("price of a round, also that which `auto` stood for", "values")]
    comm_dtype: Annotated[str, Key("format in which ghost neurons travel")]
    bytes_per_sample: Annotated[int, Key("bytes that cross", "bytes per sample")]
    weights: Annotated[int, Key("weights of the original network")]
    weights_kept: Annotated[int, Key("weights that are left")]
    weights_of_workers: Annotated[list[int], Key("weights of each worker")]
    compute_fraction: Annotated[
        float,
        Key("multiply-adds of the busiest worker over its share of those of the dense network"),
    ]
    layers: Annotated[list[Layer], Key("mixings, in order")]
    outputs: Annotated[list[Output], Key("outputs, in order")]
    output_error: Annotated[
        float,
        Key(
            "error of the outputs before the head on the calibration data, relative to them; weighted as "
            "`--output-weights` says"
        ),
    ]
    bound: Annotated[float | None, Key("no output error can exceed this; null: there is no bound")]
    agreement: Annotated[
        float,
        Key(
            "share of samples whose class is the same on the calibration data: the largest output, or of one "
            "output and of labels which side of the threshold"
        ),
    ]
    held_out_samples: Annotated[
        int,
        Key(
            "samples that were held out to measure errors; without a promise those of another network, made "
            "from the others alone; 0: too few samples for that"
        ),
    ]
    seconds: Annotated[float, Key("duration", "s")]
    shards: Annotated[str, Key("directory of the shards")]


class _HeldOut(TypedDict, total=False):
    output_error_held_out: Annotated[
        float, Key("output_error on the held-out samples", when="if there are any")
    ]
    agreement_held_out: Annotated[float, Key("agreement on the held-out samples", when="if there are any")]
    final_output_error_held_out: Annotated[
        float, Key("final_output_error on the held-out samples", when="with a back, if there are any")
    ]
    final_agreement_held_out: Annotated[
        float, Key("final_agreement on the held-out samples", when="with a back, if there are any")
    ]
    accuracy_held_out: Annotated[
        float, Key("accuracy on the held-out samples", when="with classes or labels, if there are any")
    ]
    reference_accuracy_held_out: Annotated[
        float, Key("reference_accuracy on the held-out samples", when="likewise")
    ]
    rmse_held_out: Annotated[
        float,
        Key("rmse on the held-out samples", "of the targets", when="with targets, if there are any"),
    ]
    reference_rmse_held_out: Annotated[
        float, Key("reference_rmse on the held-out samples", "of the targets", when="likewise")
    ]
    r2_held_out: Annotated[
        float | None, Key("r2 on the held-out samples", when="with targets, if there are any")
    ]
    reference_r2_held_out: Annotated[
        float | None, Key("reference_r2 on the held-out samples", when="likewise")
    ]


class Lossless(TypedDict):
    """Sizes before and after ``--lossless``."""

    neurons: Annotated[int, Key("neurons that are computed; those that are added to each other count once")]
    original_neurons: Annotated[int, Key("the same of the original network")]
    edges: Annotated[int, Key("weights that are not 0")]
    original_edges: Annotated[int, Key("the same of the original network")]
    dense_values: Annotated[int, Key("values that cross with nothing pruned", "values per sample")]
    original_dense_values: Annotated[int, Key("the same of the original network", "values per sample")]
    difference: Annotated[
        float,
        Key("largest one of an output on the first calibration samples, relative to the largest, in float64"),
    ]
    seconds: Annotated[float, Key("duration of the pass", "s")]


class ChoicePoint(TypedDict):
    """Forecast for a number of workers."""

    workers: Annotated[int, Key("parts of the network, a rank for each")]
    basis: Annotated[
        str,
        Key(
            "single: the original in one process; assumed: every mixing sends the budget's fraction; scaled: "
            "as sparse as the plan for another number; plan: counted in one for so many"
        ),
    ]
    forecast_us: Annotated[float, Key("time of a batch", "µs")]


class Choice(TypedDict):
    """What ``--workers auto`` chose, and by which forecasts."""

    workers: Annotated[int, Key("number that was chosen")]
    ranks_at_most: Annotated[int, Key("largest number that was allowed")]
    machine: Annotated[str, Key("machine that times are forecast for")]
    batch_size: Annotated[int, Key("samples per forward")]
    ranks: Annotated[list[int], Key("ranks of the machine file that the workers suit, in order")]
    left_out: Annotated[list[int], Key("ranks of the machine file that would slow them down")]
    workers_per_node: Annotated[int, Key("consecutive workers that share a node")]
    forecast_us: Annotated[float, Key("time of a batch", "µs")]
    single_process_us: Annotated[float, Key("time of a batch in one process", "µs")]
    points: Annotated[list[ChoicePoint], Key("all numbers that were forecast, ascending")]


class StagingPoint(TypedDict):
    """Forecast for a number of stages, by the plan for it."""

    stages: Annotated[int, Key("parts of consecutive layers")]
    period_us: Annotated[float, Key("time from one batch to the next, where batches follow each other", "µs")]
    forecast_us: Annotated[float, Key("time of a batch that is alone", "µs")]
    output_error: Annotated[float, Key("relative error of the outputs on the calibration data")]
    values_sent: Annotated[int, Key("values that cross between workers", "values per sample")]


class StagingChoice(TypedDict):
    """What ``--stages auto`` chose, and by which forecasts."""

    stages: Annotated[int, Key("number that was chosen")]
    machine: Annotated[str, Key("machine that times are forecast for")]
    batch_size: Annotated[int, Key("samples per forward")]
    points: Annotated[list[StagingPoint], Key("all numbers that were tried, ascending")]


class _RestructuredOptional(_Quality, _HeldOut, total=False):
    sweeps: Annotated[int, Key("sweeps with late exchanges in which shards run", when="with `--late`")]
    stages: Annotated[
        list[StageLayers], Key("stages, with what they compute, in order", when="with more than one stage")
    ]
    staging: Annotated[
        StagingChoice,
        Key("number of stages that was chosen, and by which forecasts", when="with `--stages auto`"),
    ]
    choice: Annotated[
        Choice,
        Key("number of workers that was chosen, and by which forecasts", when="with `--workers auto`"),
    ]
    lossless: Annotated[
        Lossless, Key("what is left of neurons, edges and dense values", when="with `--lossless`")
    ]
    final_output_error: Annotated[
        float,
        Key("error of the real numbers that the model gives, relative to them", when="with a back"),
    ]
    final_agreement: Annotated[
        float, Key("share of the integers that the model gives that are the same", when="with a back")
    ]
    link_cost: Annotated[float, Key("price of what is sent for a sample", when="with `--link-cost`")]
    minimised: Annotated[str, Key("what was looked for the least of: values or time", when="with a promise")]
    comm_budget: Annotated[float, Key("budget that was chosen", when="with a promise")]
    compute_budget: Annotated[
        float, Key("budget of computation that was chosen", when="with `--minimise time`")
    ]
    machine: Annotated[
        str,
        Key("machine whose time was modelled, with a rank for every worker", when="with `--minimise time`"),
    ]
    modelled_us: Annotated[
        float, Key("modelled time of one sample through these shards", "µs", when="with `--minimise time`")
    ]
    modelled_dense_us: Annotated[
        float, Key("the same on as many ranks with nothing pruned", "µs", when="with `--minimise time`")
    ]
    modelled_single_process_us: Annotated[
        float, Key("the same of the original network in one process", "µs", when="with `--minimise time`")
    ]
    trials: Annotated[int, Key("budgets that were tried", when="with a promise")]
    accuracy_drop: Annotated[
        float,
        Key("accuracy lost on the held-out samples", "percentage points", when="with `--max-accuracy-drop`"),
    ]
    accuracy_drop_bound: Annotated[
        float,
        Key("its upper 95 % confidence bound", "percentage points", when="with `--max-accuracy-drop`"),
    ]
    warnings: Annotated[
        list[str],
        Key(
            "reasons why the promise says little, or that the original network is modelled to be faster",
            when="with a promise, if there are any",
        ),
    ]


class RestructureReport(_Delivered, _Restructured, _RestructuredOptional, _Imported):
    """Report of ``restructure``; qualities without ``_held_out`` are those on the calibration data."""


class SplitReport(_Delivered):
    """Report of ``restructure`` with a transformer that is split as it is."""

    workers: Annotated[int, Key("parts of the network")]
    part_weights: Annotated[
        list[float], Key("relative speeds of the workers, those that `auto` stood for as well")
    ]
    stream: Annotated[str, Key("form of the residual stream: `owned` or `common`")]
    longest: Annotated[int, Key("tokens that a text may have")]
    values_sent: Annotated[int, Key("values that cross between workers", "values per token")]
    bytes_sent: Annotated[int, Key("bytes that cross", "bytes per token")]
    rounds: Annotated[int, Key("rounds of exchanges, one after the other, with a rank for every worker")]
    round_cost: Annotated[float, Key("price of a round, also that which `auto` stood for", "values")]
    weights: Annotated[int, Key("weights of the network")]
    plan_bytes: Annotated[int, Key("size of the plan, which every rank reads", "bytes")]
    shard_bytes: Annotated[list[int], Key("size of the shard of each worker", "bytes")]
    tokenizer: Annotated[bool, Key("whether the shards have one")]
    ends: Annotated[list[int], Key("tokens after which a text ends")]
    seconds: Annotated[float, Key("duration", "s")]
    shards: Annotated[str, Key("directory of the shards")]


class _Predictions(TypedDict, total=False):
    reference_perplexity: Annotated[
        float, Key("perplexity of the next token, of the original network", when="of a decoder")
    ]
    perplexity: Annotated[float, Key("the same of the restructured network", when="of a decoder")]
    reference_accuracy: Annotated[
        float,
        Key("share of the next tokens that the original network held most probable", when="of a decoder"),
    ]
    accuracy: Annotated[float, Key("the same of the restructured network", when="of a decoder")]
    trials: Annotated[int, Key("budgets that were tried", when="with a promise")]


class _Modelled(TypedDict, total=False):
    machine: Annotated[
        str, Key("name of the machine that times are forecast for", when="one is named or was probed")
    ]
    piece_tokens: Annotated[
        int,
        Key(
            "tokens of a sequence at a time that they are of: of a decoder one, of others the calibration "
            "texts' mean",
            when="likewise",
        ),
    ]
    context: Annotated[int, Key("tokens of the sequence before them", when="likewise")]
    modelled_us: Annotated[float, Key("forecast with a rank for every worker", "µs", when="likewise")]
    modelled_dense_us: Annotated[
        float, Key("likewise, of the original split as it is", "µs", when="likewise")
    ]
    modelled_single_process_us: Annotated[
        float, Key("forecast of the original in one process", "µs", when="likewise")
    ]


class RestructuredTextsReport(SplitReport, _Predictions, _Modelled):
    """Report of ``restructure`` with a transformer and texts."""

    dense_values: Annotated[
        int, Key("what dense tensor parallelism sends: two all-reduces for each block", "values per token")
    ]
    comm_fraction: Annotated[float, Key("values_sent over dense_values")]
    comm_budget: Annotated[float, Key("budget that was given, or with a promise chosen")]
    comm_dtype: Annotated[str, Key("format in which ghost neurons travel")]
    load: Annotated[
        float,
        Key("multiply-adds with weights of the busiest worker, over an even share of the original's"),
    ]
    texts: Annotated[int, Key("texts of the calibration data")]
    tokens: Annotated[int, Key("tokens of all of them")]
    held_out_texts: Annotated[
        int,
        Key(
            "of these, one in five, held out to measure errors and qualities on; 0: there were fewer than "
            "five, and they are those on the texts that restructured"
        ),
    ]
    measured_tokens: Annotated[int, Key("tokens of the texts on which they are measured")]
    output_error: Annotated[
        float, Key("error of the outputs of all tokens before the head, relative to them, there")
    ]


class GenerateReport(_Delivered):
    """Report of ``generate``."""

    ranks: Annotated[int, Key("MPI processes")]
    workers: Annotated[int, Key("parts of the network")]
    prompts: Annotated[int, Key("texts that are continued")]
    prompt_tokens: Annotated[int, Key("tokens of all prompts")]
    tokens: Annotated[int, Key("new tokens of all texts")]
    interrupted: Annotated[bool, Key("whether somebody stopped it")]
    load_seconds: Annotated[float, Key("reading and splitting the model, and a first token", "s")]
    prompt_seconds: Annotated[float, Key("reading the prompts", "s")]
    step_seconds: Annotated[float, Key("all steps, each of which adds a token to every text", "s")]
    tokens_per_second: Annotated[float, Key("new tokens of all texts, but the first of each")]
    step_us: Annotated[Phases, Key("time of a step by phase, the maximum over the ranks")]
    values_sent: Annotated[
        int,
        Key("values that ranks exchange for a token whose outputs are wanted, counted", "values per token"),
    ]
    bytes_sent: Annotated[
        int, Key("bytes of these; what the root gets of outputs is not among them", "bytes per token")
    ]
    rounds: Annotated[int, Key("rounds of exchanges of a step, one after the other")]
    kept_bytes: Annotated[list[int], Key("room for keys, values and states on each rank", "bytes")]
    ids: Annotated[list[list[int]], Key("new tokens of each text")]


class _Texts(TypedDict):
    ranks: Annotated[int, Key("MPI processes")]
    workers: Annotated[int, Key("parts of the network")]
    texts: Annotated[int, Key("texts of the input")]
    lengths: Annotated[list[int], Key("tokens of each")]
    outputs: Annotated[int, Key("outputs of a token or a text")]
    pool: Annotated[str, Key("of the outputs of a text's tokens: `none`, `first`, `last`, `mean`")]
    load_seconds: Annotated[float, Key("reading and splitting the model, and a first text", "s")]
    seconds: Annotated[float, Key("all texts, their verification not counted", "s")]
    values_sent: Annotated[
        int,
        Key("values that ranks exchange for a token whose outputs are wanted, counted", "values per token"),
    ]
    bytes_sent: Annotated[
        int, Key("bytes of these; what the root gets of outputs is not among them", "bytes per token")
    ]
    rounds: Annotated[int, Key("rounds of exchanges of a batch, one after the other")]


class TextsReport(_Delivered, _Texts, _Verified, total=False):
    """Report of ``infer`` with the directory of a transformer."""


class Host(TypedDict):
    """A machine of a job."""

    host: Annotated[str, Key("its name")]
    ranks: Annotated[int, Key("ranks on it")]
    cpus: Annotated[int, Key("cores that they may use")]
    host_cpus: Annotated[int, Key("cores of the machine")]
    threads: Annotated[int, Key("threads of BLAS in each rank")]
    bound: Annotated[bool, Key("whether ranks are bound to cores")]
    memory: Annotated[int | None, Key("memory left; null: not known", "bytes")]
    shard_bytes: Annotated[int, Key("shards that its ranks would read", "bytes")]


class _Doctor(TypedDict):
    versions: Annotated[str, Key("versions of what must be the same everywhere")]
    ranks: Annotated[int, Key("MPI processes")]
    launched: Annotated[int, Key("processes that the launcher says it started")]
    hosts: Annotated[list[Host], Key("machines")]
    blas: Annotated[str, Key("BLAS library and what it takes the processor for; empty: not known")]
    numba_cache: Annotated[str | None, Key("where compiled kernels are kept; null: nowhere")]
    numba_cache_filesystem: Annotated[str, Key("type of the file system there")]
    import_seconds: Annotated[float, Key("imports of the slowest rank", "s")]
    exchange_us: Annotated[float, Key("an exchange in which nobody sends anything, the median", "µs")]
    hdf5_locks: Annotated[bool | None, Key("whether files can be locked; null: not known")]
    errors: Annotated[list[str], Key("what would make infer fail, with the remedy")]
    warnings: Annotated[list[str], Key("what would make it slow")]


class _DoctorOptional(TypedDict, total=False):
    workers: Annotated[int, Key("workers of the shards", when="with `--shards`")]


class DoctorReport(_Delivered, _Doctor, _DoctorOptional):
    """Report of ``doctor``."""


class InspectedSpace(TypedDict):
    """A neuron space of a model."""

    name: Annotated[str, Key("its name")]
    neurons: Annotated[int, Key("neurons")]
    tensors: Annotated[int, Key("tensors that share the owners")]
    derived: Annotated[bool, Key("whether its owners follow from those of others")]


class InspectedMixing(TypedDict):
    """A mixing of a model."""

    name: Annotated[str, Key("its name")]
    source: Annotated[str, Key("tensor that it reads")]
    target: Annotated[str, Key("tensor that it makes")]
    inputs: Annotated[int, Key("neurons of the source that each output may read")]
    outputs: Annotated[int, Key("neurons of the target")]
    kernel: Annotated[list[int], Key("window of a convolution; empty: none")]
    positions: Annotated[list[int], Key("positions of a neuron of the target")]
    weights: Annotated[int, Key("weights that are not zero")]
    multiply_adds: Annotated[int, Key("multiply-adds per sample")]
    dense_values: Annotated[
        int,
        Key(
            "values sent if every neuron that it reads goes to all other workers; a tensor that several "
            "mixings read counts for the first of them, an input that every rank can read is not sent",
            "values per sample",
        ),
    ]


class InspectedEnd(TypedDict):
    """What a model computes before or behind its network."""

    operators: Annotated[list[str], Key("its operators, each once")]
    inputs: Annotated[int, Key("values that it reads", "values per sample")]
    outputs: Annotated[int, Key("values that it makes", "values per sample")]
    onnxruntime: Annotated[bool, Key("whether onnxruntime computes it, else NumPy")]


class _Inspected(TypedDict):
    model: Annotated[str, Key("file of the model, or directory of the shards")]
    supported: Annotated[bool, Key("whether all of it is supported")]
    unsupported: Annotated[list[str], Key("a text for each node that is not")]


# Of keys that tell of the network in a model or in shards.
_KNOWN = "if supported, and no shard is missing"


class _InspectedModel(TypedDict, total=False):
    inputs: Annotated[int, Key("values per sample of the input", when=_KNOWN)]
    outputs: Annotated[int, Key("values per sample of the output", when=_KNOWN)]
    front: Annotated[InspectedEnd | None, Key("before the network; null: nothing is computed", when=_KNOWN)]
    back: Annotated[InspectedEnd | None, Key("behind the network; null: nothing is computed", when=_KNOWN)]
    spaces: Annotated[list[InspectedSpace], Key("neuron spaces", when=_KNOWN)]
    mixings: Annotated[list[InspectedMixing], Key("mixings", when=_KNOWN)]
    workers: Annotated[int, Key("workers that traffic is counted for", when="if supported")]
    input_placement: Annotated[str, Key("who can read the input, of a model every rank", when="if supported")]
    weights: Annotated[int, Key("sum over the mixings", when=_KNOWN)]
    multiply_adds: Annotated[int, Key("sum over the mixings", when=_KNOWN)]
    dense_values: Annotated[int, Key("sum over the mixings", "values per sample", when=_KNOWN)]
    longest: Annotated[
        int, Key("tokens that a text may have; numbers per sample are per token", when="of networks of texts")
    ]


class _InspectedImport(TypedDict, total=False):
    import_check: Annotated[
        ImportCheck,
        Key(
            "comparison of the network with the file, by a program that is not ours",
            when="of an `.onnx` MODEL that is supported, unless `--no-check`",
        ),
    ]


class _InspectedReading(TypedDict, total=False):
    reading: Annotated[str, Key("what was assumed that the file does not say", when="of a `.nir` MODEL")]


class InspectedRelays(TypedDict):
    """Relays of a mixing from one worker to another."""

    mixing: Annotated[str, Key("name of the mixing")]
    sender: Annotated[int, Key("worker that computes them")]
    receiver: Annotated[int, Key("worker that reads them")]
    relays: Annotated[int, Key("how many")]
    values: Annotated[int, Key("values that cross for them", "values per sample")]


class _MadeOf(TypedDict, total=False):
    calibration_sha256: Annotated[str, Key("of the calibration data", when="made with samples")]
    calibration_samples: Annotated[int, Key("how many", when="made with samples")]
    texts: Annotated[int, Key("calibration texts", when="made with texts")]


class Made(_MadeOf):
    """How shards were made."""

    command: Annotated[
        str, Key("the command line, with `MODEL` and `DATA` for files, whose names no plan knows")
    ]
    model_fingerprint: Annotated[str, Key("of the original network")]
    dtype: Annotated[str, Key("of the weights")]
    versions: Annotated[dict[str, str], Key("of the programs that made them")]
    tuned: Annotated[int, Key("how often `finetune` has tuned them since")]


class _InspectedShards(TypedDict, total=False):
    stages: Annotated[
        list[StageLayers], Key("stages, with what they compute, in order", when="of shards with several")
    ]
    made: Annotated[Made, Key("how they were made", when="of shards made by a command")]
    values_sent: Annotated[
        int, Key("values that cross between workers", "values per sample", when="of shards")
    ]
    sweeps: Annotated[
        int, Key("sweeps with late exchanges in which they run", when="of shards made with `--late`")
    ]
    relays: Annotated[
        list[InspectedRelays],
        Key("relays, by mixing and pair of workers; empty: none", when="of shards of which none is missing"),
    ]
    missing: Annotated[list[str], Key("files of workers that are not there", when="if there are any")]


class InspectReport(
    _Delivered, _Inspected, _InspectedModel, _InspectedShards, _InspectedImport, _InspectedReading
):
    """Report of ``inspect``."""


class _ForecastOfStages(TypedDict, total=False):
    period_us: Annotated[
        float,
        Key(
            "time from one batch to the next, where batches follow each other", "µs", "of a plan with stages"
        ),
    ]


class Forecast(_ForecastOfStages):
    """Forecast of a batch on some ranks."""

    total_us: Annotated[float, Key("time of a batch", "µs")]
    compute_us: Annotated[float, Key("part of it that computes", "µs")]
    overhead_us: Annotated[float, Key("part of it that handles messages", "µs")]
    latency_us: Annotated[float, Key("part of it that waits for the first byte", "µs")]
    bytes_us: Annotated[float, Key("part of it that waits for the others", "µs")]
    values_sent: Annotated[float, Key("values that cross", "values per sample")]
    messages: Annotated[float, Key("messages", "per batch")]
    marginal: Annotated[
        float | None,
        Key("1: doubling the ranks halves the time, 0: it is in vain; null for the first point"),
    ]


class _PointRestructured(TypedDict, total=False):
    restructured: Annotated[
        Forecast, Key("the restructured network", when="but for a MODEL that is a transformer for texts")
    ]


class ForecastPoint(_PointRestructured):
    """Forecasts for a number of ranks."""

    ranks: Annotated[int, Key("number of ranks")]
    basis: Annotated[
        str,
        Key(
            "plan: counted in the shards; scaled: as sparse as they are; split: a transformer for texts, "
            "as it is; single: one process"
        ),
    ]
    dense: Annotated[Forecast, Key("the same with nothing pruned")]


class Conclusion(TypedDict):
    """Numbers of ranks that pay."""

    best_ranks: Annotated[int, Key("number of ranks with the shortest time")]
    best_us: Annotated[float, Key("that time", "µs")]
    speedup: Annotated[float | None, Key("over one rank; null without that point")]
    paying_ranks: Annotated[int, Key("up to so many ranks, doubling them divides the time by 1.41 or more")]
    slower_ranks: Annotated[
        list[int] | None, Key("numbers of ranks that are slower than one; null without that point")
    ]


class _ForecastOptional(TypedDict, total=False):
    tokens: Annotated[int, Key("tokens of a sequence at a time", when="of a transformer for texts")]
    context: Annotated[int, Key("tokens of the sequence before them", when="of a transformer for texts")]
    restructured: Annotated[
        Conclusion, Key("of the restructured network", when="but for a MODEL that is a transformer for texts")
    ]


class ForecastReport(_Delivered, _ForecastOptional):
    """Report of ``forecast``."""

    machine: Annotated[str, Key("name of the machine")]
    machine_source: Annotated[str, Key("where its numbers are from")]
    model: Annotated[str, Key("file or directory")]
    input_placement: Annotated[str, Key("who can read the input")]
    comm_dtype: Annotated[
        str | None,
        Key("format in which ghost neurons travel; null for a MODEL that is a transformer for texts"),
    ]
    batch_size: Annotated[int, Key("samples, or sequences, per forward")]
    workers: Annotated[int | None, Key("workers of the shards; null for a model")]
    comm_budget: Annotated[
        float | None, Key("assumed for a model; null for shards and transformers for texts")
    ]
    most_ranks: Annotated[int | None, Key("ranks that the machine has links for; null: any number")]
    points: Annotated[list[ForecastPoint], Key("by number of ranks, ascending")]
    dense: Annotated[Conclusion, Key("of the dense network")]


class PointRow(TypedDict):
    """Measurements of a batch size."""

    hosts: Annotated[int, Key("machines")]
    oversubscribed: Annotated[bool, Key("whether a machine has more ranks than cores")]
    weights: Annotated[int, Key("weights of the network that was run")]
    values: Annotated[int, Key("values handed to MPI", "values per sample")]
    dense_values: Annotated[int, Key("the same with nothing pruned", "values per sample")]
    messages: Annotated[int, Key("messages of a forward")]
    bytes: Annotated[int, Key("bytes handed to MPI", "bytes per batch")]
    batch: Annotated[int, Key("samples per forward")]
    repeats: Annotated[int, Key("forwards that were timed")]
    seconds_median: Annotated[float, Key("time of a forward, the median", "s")]
    seconds_p10: Annotated[float, Key("10th percentile", "s")]
    seconds_p90: Annotated[float, Key("90th percentile", "s")]
    compute_seconds: Annotated[float, Key("median of this phase on the slowest rank", "s")]
    pack_seconds: Annotated[float, Key("median of this phase on the slowest rank", "s")]
    exchange_seconds: Annotated[float, Key("median of this phase on the slowest rank", "s")]
    wait_seconds: Annotated[float, Key("median of this phase on the slowest rank", "s")]
    single_seconds: Annotated[float, Key("the same network in one process, the median", "s")]
    wire_bytes: Annotated[
        float | None,
        Key("bytes that leave the network interfaces; null: one host, or unknown", "per forward"),
    ]
    wire_packets: Annotated[float | None, Key("packets likewise", "per forward")]
    relative_difference: Annotated[
        float, Key("largest difference from one process, relative to its largest output")
    ]


class PointReport(_Delivered):
    """Report of ``point``, a launch of ``scaling``."""

    batches: Annotated[list[PointRow], Key("a row for each batch size")]


class BenchMachine(TypedDict):
    """The machine of a benchmark."""

    processor: Annotated[str, Key("its name")]
    logical_cores: Annotated[int, Key("hardware threads")]
    caches: Annotated[dict[str, str], Key("sizes by name, of the first core")]
    memory_gib: Annotated[float, Key("memory", "GiB")]
    system: Annotated[str, Key("operating system")]
    load_before: Annotated[float, Key("load average before the benchmark")]
    mpi: Annotated[str, Key("MPI library")]
    openblas_core: Annotated[str | None, Key("what OpenBLAS takes the processor for; null or empty: unknown")]
    versions: Annotated[dict[str, str], Key("versions by package")]


class BenchTimes(TypedDict):
    """Percentiles of the times of a candidate."""

    median: Annotated[float, Key("median", "µs")]
    p10: Annotated[float, Key("10th percentile", "µs")]
    p90: Annotated[float, Key("90th percentile", "µs")]
    repeats: Annotated[int, Key("timed calls")]


class _Row(TypedDict):
    us: Annotated[dict[str, BenchTimes], Key("times by candidate")]
    ratios: Annotated[dict[str, float], Key("time over that of ours, by candidate; above 1: ours is faster")]


class VectorRow(_Row):
    """A product with a vector."""

    n: Annotated[int, Key("rows and columns of the weights")]
    gb_per_s: Annotated[float, Key("weights that ours reads", "GB/s")]


class BatchRow(_Row):
    """A product with a batch."""

    n: Annotated[int, Key("rows and columns of the weights")]
    batch: Annotated[int, Key("columns of the batch")]
    gflops: Annotated[float, Key("speed of ours", "GFLOP/s")]


class CsrRow(_Row):
    """A product with sparse weights."""

    n: Annotated[int, Key("rows and columns of the weights")]
    density: Annotated[float, Key("share of the weights that is not zero")]
    columns: Annotated[int, Key("columns of the batch")]
    gflops: Annotated[float, Key("speed of ours", "GFLOP/s")]


class ExchangeRow(_Row):
    """An exchange of one size."""

    bytes: Annotated[int, Key("bytes from each rank to each other one")]


class InferenceRow(_Row):
    """Four layers, end to end."""

    n: Annotated[int, Key("neurons of each layer")]
    batch: Annotated[int, Key("samples per forward")]
    best_single: Annotated[str, Key("fastest candidate in one process")]
    best_single_ratio: Annotated[float, Key("its time over that of ours")]
    efficiency: Annotated[float, Key("strong scaling of ours, against the best process with one thread")]
    restructured_efficiency: Annotated[float, Key("the same against the restructured network in one process")]
    dense_efficiency: Annotated[float, Key("the same of the dense network")]


class StreamRow(_Row):
    """From file to file; times are those of a batch."""

    file: Annotated[str, Key("kind of the file of samples")]
    batch: Annotated[int, Key("samples per batch")]


class _Bench(_Delivered):
    subject: Annotated[str, Key("kernels, exchange, inference or stream")]
    options: Annotated[dict[str, Any], Key("options of the command, by field")]
    ranks: Annotated[int, Key("MPI processes")]
    cores: Annotated[int, Key("cores that they may use")]
    pinned: Annotated[bool, Key("whether each rank has a core of its own")]
    oversubscribed: Annotated[bool, Key("whether a machine has more ranks than cores")]
    machine: Annotated[BenchMachine, Key("machine of the root")]
    left_out: Annotated[list[str], Key("peers that could not be measured, and why")]


class BenchKernelsReport(_Bench):
    """Report of ``bench kernels``."""

    vector: Annotated[list[VectorRow], Key("one vector, dense weights")]
    batch: Annotated[list[BatchRow], Key("a batch, dense weights")]
    csr: Annotated[list[CsrRow], Key("compressed sparse rows")]


class BenchExchangeReport(_Bench):
    """Report of ``bench exchange``."""

    exchange: Annotated[list[ExchangeRow], Key("a row for each size")]


class BenchInferenceReport(_Bench):
    """Report of ``bench inference``."""

    inference: Annotated[list[InferenceRow], Key("a row for each width and batch size")]


class BenchStreamReport(_Bench):
    """Report of ``bench stream``."""

    stream: Annotated[list[StreamRow], Key("a row for each kind of file and batch size")]


class TunedEpoch(TypedDict):
    """What became of an epoch of fine-tuning."""

    epoch: Annotated[int, Key("its number; 0: before anything was tuned")]
    loss: Annotated[float | None, Key("mean over its steps; null of number 0")]
    held_out_loss: Annotated[float, Key("on held-out samples, behind it")]
    held_out_accuracy: Annotated[
        float | None,
        Key(
            "share of these whose largest output is at their label or, without `--labels`, where that of the "
            "original is; null: there are no classes"
        ),
    ]
    seconds: Annotated[float, Key("duration", "s")]


class FinetuneReport(_Delivered):
    """Report of ``finetune``."""

    ranks: Annotated[int, Key("MPI processes")]
    groups: Annotated[int, Key("groups of ranks that hold a copy of the network each")]
    workers: Annotated[int, Key("parts of the network")]
    samples: Annotated[int, Key("samples of DATA")]
    held_out_samples: Annotated[int, Key("those that were not tuned on")]
    batch_size: Annotated[int, Key("samples per step")]
    targets: Annotated[str, Key("the loss, and what outputs were compared with")]
    local: Annotated[list[str], Key("tensors with a loss of their own (`--local`)")]
    optimiser: Annotated[str, Key("how weights follow their gradients")]
    learning_rate: Annotated[float, Key("largest step size")]
    dtype: Annotated[str, Key("numbers that are computed in")]
    comm_dtype: Annotated[str, Key("format in which ghost neurons travel forward")]
    exchange: Annotated[str, Key("transport of the exchanges")]
    values_sent: Annotated[int, Key("values that a step sends forward, as an inference", "values per sample")]
    values_sent_back: Annotated[int, Key("values that it sends back", "values per sample")]
    rotate: Annotated[int | None, Key("steps after which subnets are drawn anew (`--rotate`)")]
    subnet_weights: Annotated[
        float,
        Key("weights of MODEL that subnets take, the average of all steps; nothing is sent", "per step"),
    ]
    gradient_bytes: Annotated[
        int, Key("bytes of gradients that were handed to MPI, to be added up over groups", "bytes")
    ]
    best_epoch: Annotated[int, Key("the one whose weights the shards have")]
    epochs: Annotated[list[TunedEpoch], Key("all epochs, those of an interrupted run included")]
    seconds: Annotated[
        dict[str, float],
        Key(
            "time by phase, the maximum over the ranks: input, subnets (drawn and cut), passes (forward and "
            "backward), loss (outputs to the root, and back); within these pack, exchange and wait of what "
            "crosses; total, of the whole command",
            "s",
        ),
    ]
    peak_memory_mib: Annotated[float, Key("resident memory, the maximum over the ranks", "MiB")]
    shards: Annotated[str, Key("directory of the new shards")]


REPORTS: dict[str, type] = {
    "restructure": RestructureReport,
    "restructure split": SplitReport,
    "restructure texts": RestructuredTextsReport,
    "infer": InferReport,
    "infer texts": TextsReport,
    "generate": GenerateReport,
    "finetune": FinetuneReport,
    "doctor": DoctorReport,
    "inspect": InspectReport,
    "forecast": ForecastReport,
    "point": PointReport,
    "bench kernels": BenchKernelsReport,
    "bench exchange": BenchExchangeReport,
    "bench inference": BenchInferenceReport,
    "bench stream": BenchStreamReport,
}
"""Reports by command."""


def keys(report: type, prefix: str = "") -> Iterator[tuple[str, Any, Key]]:
    """Yield name, type and meaning of the keys of a report, those of objects inside it after each.

    Args:
        report: a TypedDict.
        prefix: prefix of the names.
    """
    for name, hint in get_type_hints(report, include_extras=True).items():
        kind, key = get_args(hint)
        yield prefix + name, kind, key
        if is_typeddict(kind):
            yield from keys(kind, f"{prefix}{name}.")
        elif get_origin(kind) in (list, dict) and is_typeddict(get_args(kind)[-1]):
            suffix = "[]" if get_origin(kind) is list else ".NAME"
            yield from keys(get_args(kind)[-1], f"{prefix}{name}{suffix}.")


def problems(value: Any, kind: Any, place: str = "report") -> list[str]:
    """Differences of a value, read from JSON, from the type that is declared for it.

    Args:
        value: a report, or a part of one.
        kind: a TypedDict, or a type such as ``list[int]`` or ``str | None``.
        place: name of the value, for the texts.

    Returns:
        a text for each; empty: the value is as declared.
    """
    if kind is Any:
        return []
    if is_typeddict(kind):
        return _problems_of_object(value, kind, place)
    if isinstance(kind, UnionType):
        differences = [problems(value, alternative, place) for alternative in get_args(kind)]
        return [] if [] in differences else differences[0]
    if get_origin(kind) is list and isinstance(value, list):
        (inner,) = get_args(kind)
        return [text for entry in value for text in problems(entry, inner, f"{place}[]")]
    if get_origin(kind) is dict and isinstance(value, dict):
        inner = get_args(kind)[1]
        return [text for name, entry in value.items() for text in problems(entry, inner, f"{place}.{name}")]
    base = get_origin(kind) or kind
    # JSON writes 1.0 and 1 alike; a truth value is no number.
    accepted = (int, float) if base is float else base
    if isinstance(value, accepted) and (base is bool or not isinstance(value, bool)):
        return []
    return [f"{place}: expected {name_of(kind)}, found {value!r}"]


def _problems_of_object(value: Any, kind: Any, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: expected an object, found {value!r}"]
    hints = get_type_hints(kind)
    differences = [f"{place}.{name}: expected, not found" for name in kind.__required_keys__ - value.keys()]
    differences += [f"{place}.{name}: found, not declared" for name in value.keys() - hints.keys()]
    for name in hints.keys() & value.keys():
        differences += problems(value[name], hints[name], f"{place}.{name}")
    return sorted(differences)


_NAMES = {int: "integer", float: "number", str: "string", bool: "true or false", NoneType: "null", Any: "any"}


def name_of(kind: Any) -> str:
    """A type as documentation calls it."""
    if isinstance(kind, UnionType):
        return " or ".join(map(name_of, get_args(kind)))
    if get_origin(kind) is list:
        return f"list of {name_of(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"object of {name_of(get_args(kind)[1])}"
    return "object" if is_typeddict(kind) else _NAMES[kind]
