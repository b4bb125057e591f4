"""Programs of one process: no MPI, shards that stay as they are, schedules of a few batch sizes."""

import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest

from helpers import ROOT, small_graphs, small_plans
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime import program as program_module
from repurpose_hpc.runtime.program import MOST_SCHEDULES, Program, one_process
from repurpose_hpc.runtime.shards import cast

WORKERS = 3
WITHOUT_MPI = """
import sys
import numpy as np
from helpers import ROOT, small_plans
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime import inference, loading, streams
from repurpose_hpc.runtime.exchange import choose
from repurpose_hpc.runtime.program import Program, one_process

network = small_plans.random_network(head="identity")
plan = small_plans.random_plan(network, 3, "partitioned", 5)
network = small_plans.pruned(network, plan)
x = np.random.default_rng(3).standard_normal((4, network.inputs))
shards = [make_shard(network, plan, worker, np.float64) for worker in range(3)]
for program in (Program(shards, max_batch=4), one_process(network, np.dtype(np.float64), 4)):
    y = np.empty((4, network.outputs))
    y[:, program.output_columns] = program.forward(np.ascontiguousarray(x.T[program.input_columns])).T
    np.testing.assert_allclose(y, forward(network, x), rtol=0, atol=1e-12)
    assert program.values_sent == program.messages == 0 and sum(program.seconds.values()) > 0
    program.use_transport("shared")
    program.forward(np.ascontiguousarray(x.T[program.input_columns]))
    program.free()
assert "mpi4py.MPI" not in sys.modules
"""


def run_alone(code):
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_alone_needs_no_mpi():
    run_alone(WITHOUT_MPI)


@pytest.fixture
def case():
    network = small_plans.random_network(head="identity")
    plan = small_plans.random_plan(network, WORKERS, "partitioned", 5)
    network = small_plans.pruned(network, plan)
    shards = [make_shard(network, plan, worker, np.float64) for worker in range(WORKERS)]
    return network, shards, np.random.default_rng(3).standard_normal((MOST_SCHEDULES + 3, network.inputs))


def outputs(program, x):
    y = np.empty((len(x), program.output_columns.size))
    y[:, program.output_columns] = program.forward(np.ascontiguousarray(x.T[program.input_columns])).T
    return y


def test_shards_are_left_alone(case):
    network, shards, x = case
    before = [{name: block.own_weights.copy() for name, block in shard.blocks.items()} for shard in shards]
    first, second = (outputs(Program(shards, max_batch=len(x)), x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for shard, weights in zip(shards, before, strict=True):
        assert list(shard.blocks) == list(weights)
        for name, block in shard.blocks.items():
            np.testing.assert_array_equal(block.own_weights, weights[name])


class _Counted(dict):
    """Blocks that know how often each was looked up."""

    def __init__(self, blocks):
        super().__init__(blocks)
        self.looks = dict.fromkeys(blocks, 0)

    def __getitem__(self, name):
        self.looks[name] += 1
        return super().__getitem__(name)


def test_a_block_is_read_once(case):
    """One that is cut at every look is not held twice; blocks cast at each look do as well."""
    network, shards, x = case
    expected = outputs(Program(shards, max_batch=len(x)), x)
    counted = [replace(shard, blocks=_Counted(shard.blocks)) for shard in shards]
    np.testing.assert_array_equal(outputs(Program(counted, max_batch=len(x)), x), expected)
    assert all({*shard.blocks.looks.values()} == {1} for shard in counted)
    program = Program([cast(shard, np.dtype(np.float32)) for shard in shards], max_batch=len(x))
    assert program.dtype == np.float32
    np.testing.assert_allclose(outputs(program, x.astype(np.float32)), expected, atol=1e-5)


def test_a_shard_that_is_kept_keeps_no_weights():
    """Views of the weights would: of the whole network on every rank."""
    network = small_plans.random_network(head="identity")
    shard = make_shard(network, single_worker_plan(network), 0, np.float64)
    weights = [weakref.ref(mixing.weights) for mixing in network.mixings]
    graph = shard.graph
    del network, shard
    gc.collect()
    assert [reference() for reference in weights] == [None] * len(graph.mixings)


def test_schedules_of_a_few_batch_sizes_are_kept(case, monkeypatch):
    network, shards, x = case
    made = []
    schedule = program_module.Schedule
    monkeypatch.setattr(program_module, "Schedule", lambda *args: made.append(args[2]) or schedule(*args))
    program, sizes = Program(shards, max_batch=len(x)), range(1, len(x) + 1)
    for size in (*sizes, *sizes[-MOST_SCHEDULES:], 1):
        np.testing.assert_allclose(outputs(program, x[:size]), forward(network, x[:size]), atol=1e-12)
    assert [part.samples for ((part,),) in made] == [*sizes, 1]


def test_more_samples_than_announced_are_refused(case):
    network, shards, x = case
    program = one_process(network, np.dtype(np.float64), 2)
    with pytest.raises(ValueError, match="expected 1 to 2 samples, found 3"):
        program.forward(np.zeros((network.inputs, 3)))


LOADED = """
import gc
import numpy as np
from numba.core.dispatcher import Dispatcher
from helpers.small_graphs import branching_network, convolutional_network, residual_network
from helpers.small_plans import random_network
from repurpose_hpc.runtime.program import one_process

def loaded():
    dispatchers = [thing for thing in gc.get_objects() if issubclass(type(thing), Dispatcher)]
    return {(each.py_func.__name__, str(key)) for each in dispatchers for key in each.overloads}

networks = random_network(), convolutional_network(), residual_network(), branching_network()
programs = [one_process(network, np.dtype(np.float32), 20) for network in networks]
for program in programs:
    program.prepare(1)
    program.prepare(20)
before = loaded()
for program in programs:
    for batch in (1, 20):
        program.forward(np.ones((program.input_columns.size, batch), np.float32))
print(sorted(loaded() - before))
"""


def test_a_prepared_program_has_all_kernels_that_it_calls():
    """What is loaded later would bring the compiler's code back into memory, of which it is let go."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        pytest.skip("nothing is compiled")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command, env = [sys.executable, "-c", LOADED], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("maps", [1, 2])
def test_outputs_lie_in_the_order_in_which_they_are_sent(maps):
    """A map of one neuron, or several of them, as a worker of many has."""
    draw = small_graphs.Draw(0)
    window = small_graphs.square_window((4, 3))
    tensor = draw.builder.input("input", 2, (4, 3))
    outputs = tuple(draw.mixing(f"c{number}", tensor, 1, window) for number in range(maps))
    network = draw.builder.build(outputs, ("identity",) * maps)
    x = np.random.default_rng(1).standard_normal((5, network.inputs))
    program = one_process(network, np.dtype(np.float64), len(x))
    y = program.forward(np.ascontiguousarray(x.T[program.input_columns]))
    assert y.flags.c_contiguous
    np.testing.assert_allclose(y.T[:, np.argsort(program.output_columns)], forward(network, x), atol=1e-12)
