"""Promises that minimise modelled time: against those that minimise values, and what goes with them."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import small_plans
from helpers.machines import PLAIN, with_network
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.modelled import ModelledTime
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.files.store import open_plan
from repurpose_hpc.plan.plan import dense_plan, single_worker_plan
from repurpose_hpc.report.text import render_restructured
from repurpose_hpc.restructure.cache import look_up
from repurpose_hpc.restructure.computation import ComputeBudgetTooSmall
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network, restructure_to
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.promise import BrokenPromise, keep_promise
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall

WORKERS = 3
PLAIN_FORMS = ("ghosts", "sums")
NETWORK = small_plans.random_network(widths=(20, 40, 30, 5), head="identity")
DENSE = dense_plan(NETWORK, WORKERS, "replicated", np.ones(WORKERS))
MACHINE = ModelledTime(with_network(latency_us=20, gb_per_s=0.1))


def quiet(line):
    """Swallow the log."""


def samples(count=250, network=NETWORK):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 6)) @ rng.standard_normal((6, network.inputs))
    return Samples.of(x, forward(network, x).argmax(axis=1))


def draw(*parts):
    """A number from 0 to 1 that depends on nothing but ``parts``."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


@dataclass(frozen=True)
class MadeUp:
    """A model whose times follow from nothing."""

    seed: int
    name: str = "made up"

    def seconds(self, network, plan):
        return draw(self.seed, network.fingerprint(), plan.workers)


def noisy(seed):
    """A made-up restructuring: errors of the weights depend on the budgets, roughly the larger the less."""
    tried = []

    def restructure(data, options, log):
        tried.append(options)
        budgets = options.comm_budget, options.compute_budget
        noise = 0.3 * draw(seed, *budgets) * (2 - sum(budgets))
        rng = np.random.default_rng(seed)
        changed = {
            mixing.name: replace(
                mixing, weights=mixing.weights * (1 + noise * rng.standard_normal(mixing.weights.shape))
            )
            for mixing in NETWORK.mixings
        }
        return Cut(NETWORK.with_mixings(changed), DENSE)

    return restructure, tried


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(({"max_output_error": 0.1}, {"max_accuracy_drop": 8.0})),
    st.sampled_from((1.0, 0.6)),
)
def test_never_slower_than_the_fewest_values_and_always_within(seed, tolerance, most):
    model, data = MadeUp(seed), samples()
    options = Options(WORKERS, forms=PLAIN_FORMS, **tolerance, compute_budget=most)
    outcomes = []
    for aim in ("values", model):
        restructure, tried = noisy(seed)
        try:
            outcome = keep_promise(NETWORK, data, replace(options, minimise=aim), restructure, quiet)
        except BrokenPromise:
            outcomes.append(None)
            continue
        assert outcome.held_out is not None and outcome.findings["trials"] == len(tried)
        if "max_output_error" in tolerance:
            assert outcome.held_out.output_error <= 0.1
        else:
            assert outcome.findings["accuracy_drop"] <= 8
        assert outcome.options in tried and all(options.compute_budget <= most for options in tried)
        outcomes.append(outcome)
    of_values, of_time = outcomes
    if of_values is None or of_time is None:
        assert of_values is of_time
        return
    times = [model.seconds(outcome.cut.network, outcome.cut.plan) for outcome in outcomes]
    assert times[1] <= times[0]
    found = of_time.findings
    assert found["minimised"] == "time" and found["machine"] == "made up"
    assert found["modelled_us"] == 1e6 * times[1]
    assert found["modelled_dense_us"] == 1e6 * model.seconds(NETWORK, DENSE)
    single = 1e6 * model.seconds(NETWORK, single_worker_plan(NETWORK))
    assert found["modelled_single_process_us"] == single
    warned = any("faster in one process" in line for line in found.get("warnings", []))
    assert warned == (single < found["modelled_us"])
    assert of_values.findings["minimised"] == "values" and "modelled_us" not in of_values.findings


def test_what_was_enough_is_kept_where_the_whole_budget_cannot_be():
    made, _ = noisy(3)

    def restructure(data, options, log):
        if options.comm_budget == 1:
            raise BudgetTooSmall("no room for so much")
        return made(data, options, log)

    options = Options(WORKERS, max_output_error=10.0, minimise=MadeUp(3))
    outcome = keep_promise(NETWORK, samples(), options, restructure, quiet)
    assert outcome.options.comm_budget < 1
    with pytest.raises(BudgetTooSmall, match="no room for so much"):
        keep_promise(NETWORK, samples(), replace(options, max_output_error=1e-9), restructure, quiet)


def test_it_computes_less_at_the_same_tolerance(tmp_path):
    reports = {}
    for name, aim in (("values", "values"), ("time", MACHINE)):
        log = []
        options = Options(WORKERS, forms=PLAIN_FORMS, max_output_error=0.2, minimise=aim)
        reports[name] = restructure_to(tmp_path / name, NETWORK, samples(), options, np.float64, log.append)
        assert reports[name]["output_error_held_out"] <= 0.2
        stored = open_plan(tmp_path / name)
        recorded = stored.provenance["options"]
        assert recorded["comm_budget"] == reports[name]["comm_budget"]
        assert recorded["minimise"] == json.loads(json.dumps(asdict(options)))["minimise"]
        assert any("modelled time on plain: " in line for line in log) == (name == "time")
    slow, fast = reports["values"], reports["time"]
    assert fast["compute_fraction"] <= fast["compute_budget"] < slow["compute_fraction"]
    assert fast["trials"] > slow["trials"]
    text = render_restructured(fast)
    assert f"the fastest of {fast['trials']} tried" in text
    modelled, dense = (f"{fast[key]:,.1f} µs" for key in ("modelled_us", "modelled_dense_us"))
    assert f"{modelled} for a sample on plain; dense {dense}, one process" in text


def test_the_recorded_options_make_the_same_network():
    options = Options(WORKERS, forms=PLAIN_FORMS, max_output_error=0.2, minimise=MACHINE)

    def make(data, chosen, log):
        return restructure(NETWORK, data, chosen, log)

    outcome = keep_promise(NETWORK, samples(), options, make, quiet)
    assert outcome.options.compute_budget < 1
    again = restructure(NETWORK, outcome.calibration, outcome.options, quiet)
    assert again.network.fingerprint() == outcome.cut.network.fingerprint()


@pytest.mark.parametrize("excluding", [{"density": 0.9}, {"forms": ("ghosts", "relays")}])
def test_options_that_exclude_budgets_of_computation(excluding):
    """Computation is then reduced, or there is a line that it is not: there is a network in any case."""
    log = []
    made = restructure_network(
        NETWORK,
        samples(),
        workers=WORKERS,
        max_output_error=0.3,
        minimise=MACHINE,
        log=log.append,
        **{"forms": PLAIN_FORMS, **excluding},
    )
    is_left = any(line.startswith("computation is not reduced: ") for line in log)
    assert (made.report["compute_budget"] == 1) >= is_left
    assert is_left or "density" not in excluding
    assert made.report["output_error_held_out"] <= 0.3


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_computation_that_cannot_go(workers):
    """Less than that is not enough; if more may not be computed anyhow it is an error."""

    def make(data, options, log):
        if options.compute_budget < 0.8:
            raise ComputeBudgetTooSmall("cannot go")
        return Cut(NETWORK, dense_plan(NETWORK, workers, "replicated", np.ones(workers)))

    options = Options(workers, forms=PLAIN_FORMS, max_output_error=0.1, minimise=MadeUp(0))
    outcome = keep_promise(NETWORK, samples(), options, make, quiet)
    assert 0.8 <= outcome.options.compute_budget <= 1
    with pytest.raises(ComputeBudgetTooSmall, match="cannot go"):
        keep_promise(NETWORK, samples(), replace(options, compute_budget=0.7), make, quiet)


def test_one_worker_is_as_fast_as_one_process_or_faster():
    options = Options(1, forms=PLAIN_FORMS, max_output_error=0.2, minimise=MACHINE)
    made = restructure_network(NETWORK, samples(), options)
    report = made.report
    assert report["modelled_us"] < report["modelled_single_process_us"] == report["modelled_dense_us"]
    assert report["comm_budget"] == 0 and "warnings" not in report


def test_a_plan_slower_than_one_process_is_called_so(tmp_path):
    slow = ModelledTime(with_network(latency_us=1e6))
    options = Options(WORKERS, forms=PLAIN_FORMS, max_output_error=0.01, minimise=slow)
    log = []
    report = restructure_to(tmp_path / "out", NETWORK, samples(), options, np.float64, log.append)
    (warning,) = report["warnings"]
    assert f"warning: {warning}" in log
    assert warning.startswith("by the model of plain the original network is faster in one process: ")
    assert f"warning: {warning}" in render_restructured(report)


def test_the_cache_knows_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    options = Options(WORKERS, forms=PLAIN_FORMS, max_output_error=0.2, minimise=MACHINE)
    data, dtype = samples(), np.dtype(np.float64)
    directory, is_cached = look_up(NETWORK, data, options, dtype)
    assert not is_cached
    restructure_to(directory, NETWORK, data, options, np.float64, quiet)
    assert look_up(NETWORK, data, options, dtype) == (directory, True)
    other = replace(options, minimise=ModelledTime(with_network(latency_us=21)))
    for changed in (other, replace(options, minimise="values")):
        assert look_up(NETWORK, data, changed, dtype)[0] != directory


def test_options_that_cannot_be_meant():
    for fields, expected in (
        ({"minimise": MACHINE}, "minimise: expected a promise, .* found a budget; add max_accuracy_drop=0.5"),
        (
            {"minimise": "time", "max_output_error": 0.1},
            "got 'time'; words are for command lines: give a",
        ),
        ({"minimise": "bytes", "max_output_error": 0.1}, "minimise: expected one of values, time, got 'byte"),
        ({"minimise": 3, "max_output_error": 0.1}, "minimise: expected one of values, time, got 3"),
    ):
        with pytest.raises(UserError, match=expected):
            Options(WORKERS, **fields)


def test_a_machine_for_fewer_workers():
    alone = ModelledTime(replace(PLAIN, local=None, network=None))
    with pytest.raises(UserError, match="expected links for 3 ranks, found those of 1 in plain"):
        restructure_network(NETWORK, samples(), workers=3, max_output_error=0.2, minimise=alone)
