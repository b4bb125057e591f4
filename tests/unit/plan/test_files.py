"""Plans and shards on disk: round trip, same bytes, and every way in which they can be wrong."""

import mmap
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import small_plans
from helpers.small_graphs import convolutional_network
from helpers.small_plans import assert_same
from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import KINDS, Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT
from repurpose_hpc.model.operations import Window, whole_map
from repurpose_hpc.plan.files import store as files
from repurpose_hpc.plan.files.graph import read_graph, write_graph
from repurpose_hpc.plan.files.mapped import release
from repurpose_hpc.plan.files.store import PLAN_FILE, open_plan, read_shard, shard_path, write_plan
from repurpose_hpc.plan.masks import mixing_plan
from repurpose_hpc.plan.plan import PLACEMENTS, Plan, input_owners, single_worker_plan
from repurpose_hpc.plan.shard import make_shard

PROVENANCE = {"seed": 3, "options": {"comm_budget": 0.05}, "versions": ["0.1.0", "ü"]}


def make_case(
    seed=0, workers=3, widths=(5, 8, 4), placement="partitioned", density=0.5, scale=1.0, wire=EXACT
):
    """A network and a plan for it: (network, plan)."""
    rng = np.random.default_rng(seed)
    steps = []
    for layer, (n, m) in enumerate(zip(widths, widths[1:], strict=False)):
        kind = KINDS[(seed + layer) % len(KINDS)]
        steps += [(scale * rng.normal(size=(m, n)), rng.normal(size=m)), Activation(kind, 0.1)]
    network = sequence(widths[0], steps, "softmax")
    owners = {
        space.name: rng.integers(workers, size=space.neurons, dtype=np.int32) for space in network.spaces
    }
    owners["input"] = input_owners(widths[0], placement, np.ones(workers))
    plans = {}
    for mixing in network.mixings:
        ghosts, sums = (rng.random((workers, size)) < density for size in mixing.weights.shape[::-1])
        ends = (owners[network.space_of[end]] for end in (mixing.source, mixing.target))
        plans[mixing.name] = mixing_plan(ghosts, sums, *ends)
    # One in two plans knows scales.
    scales = {
        mixing.source: rng.random(mixing.weights.shape[1], np.float32)
        for mixing in network.mixings
        if seed % 2
    }
    plan = Plan(workers, placement, owners, plans, scales, wire)
    # And one in two of these outliers.
    return network, small_plans.with_outliers(network, plan) if seed % 4 == 3 else plan


CASES = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    workers=st.integers(1, 12),
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    placement=st.sampled_from(PLACEMENTS),
    density=st.sampled_from([0.0, 0.5, 1.0]),
    wire=st.sampled_from(COMM_DTYPES),
)


@pytest.fixture
def directory(tmp_path):
    """A directory with a plan for three workers."""
    write_plan(tmp_path / "plan", *make_case(), PROVENANCE)
    return tmp_path / "plan"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A plan with one worker, whose 64 MiB of weights are all ones."""
    directory, n = tmp_path_factory.mktemp("large") / "plan", 2048
    network = sequence(n, [(np.ones((n, n), np.float32), np.zeros(n, np.float32))] * 4)
    write_plan(directory, network, single_worker_plan(network), {})
    return directory


# Reads the large shard, then uses all of it, a mixing at a time, then all at once.
PEAKS = """
import re, sys
from pathlib import Path
from repurpose_hpc.plan.files.mapped import release
from repurpose_hpc.plan.files.store import open_plan, read_shard

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

stored, peaks = open_plan(Path(sys.argv[1])), [peak()]
shard = read_shard(stored, 0)
peaks.append(peak())
kept = []
for block in shard.blocks.values():
    kept.append(block.own_weights.copy())
    release(block.own_weights)
peaks.append(peak())
blocks = read_shard(stored, 0).blocks.values()
assert sum(int(block.own_weights.sum()) for block in blocks) == 1 << 24
peaks.append(peak())
print(*peaks)
"""


@given(CASES, st.sampled_from([np.float32, np.float64]))
def test_round_trip(case, dtype):
    network, plan = case
    with tempfile.TemporaryDirectory() as temporary:
        write_plan(Path(temporary) / "plan", network, plan, PROVENANCE, dtype)
        stored = open_plan(Path(temporary) / "plan")
        assert_same(stored.plan, plan)
        assert stored.provenance == PROVENANCE
        for worker in range(plan.workers):
            assert_same(read_shard(stored, worker), make_shard(network, plan, worker, dtype))


def test_same_bytes_on_writing_twice(directory, tmp_path):
    write_plan(tmp_path / "again", *make_case(), PROVENANCE)
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["plan.h5", "worker-0000.h5", "worker-0001.h5", "worker-0002.h5"]
    for name in names:
        assert (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_traffic_is_recorded(directory):
    network, plan = make_case()
    with h5py.File(directory / PLAN_FILE) as file:
        for mixing in network.mixings:
            recorded = file["mixings"][mixing.name]["traffic"][()]
            np.testing.assert_array_equal(recorded, plan.traffic(network, mixing))


@pytest.mark.slow
def test_many_workers_and_a_long_provenance(tmp_path):
    provenance = {"options": "x" * 100_000}  # more than an HDF5 attribute takes
    write_plan(tmp_path / "plan", *make_case(workers=1100), provenance)
    stored = open_plan(tmp_path / "plan")
    assert stored.provenance == provenance
    assert read_shard(stored, 1099).worker == 1099


def test_an_earlier_plan_is_replaced(directory):
    network, plan = make_case(seed=1, workers=2)
    write_plan(directory, network, plan, {})
    assert_same(open_plan(directory).plan, plan)
    assert not shard_path(directory, 2).exists()
    assert list(directory.parent.iterdir()) == [directory]


def test_missing_plan(tmp_path):
    with pytest.raises(UserError, match=r"plan\.h5: expected a file .* found none; check the directory"):
        open_plan(tmp_path)


def test_missing_shard(directory):
    stored = open_plan(directory)
    shard_path(directory, 1).unlink()
    with pytest.raises(UserError, match=r"worker-0001\.h5: expected a file .* found none"):
        read_shard(stored, 1)


@pytest.mark.parametrize("name", [PLAN_FILE, "worker-0001.h5"])
def test_every_damaged_byte_is_noticed(directory, name):
    stored = open_plan(directory)
    content = bytearray((directory / name).read_bytes())
    for position in [*range(100), *range(100, len(content), 37)]:
        content[position] ^= 0x55
        (directory / name).write_bytes(content)
        content[position] ^= 0x55
        with pytest.raises(UserError, match=f"{name}: expected"):
            open_plan(directory) if name == PLAN_FILE else read_shard(stored, 1)


def test_damage_in_large_arrays_is_noticed(large):
    stored, path = open_plan(large), shard_path(large, 0)
    content = bytearray(path.read_bytes())
    for position in (0, 50, 600, len(content) // 2, len(content) - 1):
        content[position] ^= 1
        path.write_bytes(content)
        content[position] ^= 1
        with pytest.raises(UserError, match="worker-0000.h5: expected"):
            read_shard(stored, 0)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="SHA-256 .* damaged or incomplete"):
        read_shard(stored, 0)
    path.write_bytes(content)
    read_shard(stored, 0)


def test_large_arrays_are_mapped_as_kernels_want_them(large):
    weights = read_shard(open_plan(large), 0).blocks["layer1"].own_weights
    owner = weights
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(getattr(owner, "obj", owner), mmap.mmap)
    assert weights.flags.c_contiguous and weights.flags.writeable and weights.ctypes.data % 64 == 0
    release(weights[100:200])
    assert weights.min() == weights.max() == 1


def test_release_leaves_other_arrays_alone():
    values = np.arange(1 << 16)
    release(values)
    np.testing.assert_array_equal(values, np.arange(1 << 16))


def test_a_shard_is_never_in_memory_twice(large):
    done = subprocess.run([sys.executable, "-c", PEAKS, large], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, read, packed, used = map(float, done.stdout.split())
    weights = 64
    assert read - before < 0.25 * weights
    # A copy of everything, and of the shard a mixing at a time; then, with the copy, all of it.
    assert weights < packed - before < 1.5 * weights
    assert 2 * weights <= used - before < 2.25 * weights


@pytest.mark.parametrize("left", [0, 7, 600, -1])
@pytest.mark.parametrize("name", [PLAN_FILE, "worker-0001.h5"])
def test_truncated(directory, name, left):
    stored = open_plan(directory)
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[:left])
    with pytest.raises(UserError, match=f"{name}: expected .* damaged or incomplete"):
        open_plan(directory) if name == PLAN_FILE else read_shard(stored, 1)


def test_shard_of_another_plan(directory, tmp_path):
    write_plan(tmp_path / "other", *make_case(seed=1), PROVENANCE)
    shutil.copy(shard_path(tmp_path / "other", 1), shard_path(directory, 1))
    with pytest.raises(UserError, match="of the same or another plan; .*copy all files of one plan together"):
        read_shard(open_plan(directory), 1)


def test_shard_of_another_worker(directory):
    shutil.copy(shard_path(directory, 2), shard_path(directory, 1))
    with pytest.raises(UserError, match="expected the shard of worker 1 .* found that of worker 2"):
        read_shard(open_plan(directory), 1)


def test_shard_of_the_same_plan_with_other_weights(directory, tmp_path):
    write_plan(tmp_path / "other", *make_case(scale=2.0), PROVENANCE)
    shutil.copy(shard_path(tmp_path / "other", 2), shard_path(directory, 2))
    with pytest.raises(UserError, match="its SHA-256 is not the one recorded"):
        read_shard(open_plan(directory), 2)


@pytest.mark.parametrize("name", [PLAN_FILE, "worker-0001.h5"])
@pytest.mark.parametrize("version", [1, 12])
def test_another_format_version_is_refused_by_name(directory, name, version):
    stored = open_plan(directory)
    content = (directory / name).read_bytes()
    assert content.startswith(b"repurpose-hpc 4 ")
    (directory / name).write_bytes(content.replace(b" 4 ", b" %d " % version, 1))
    with pytest.raises(
        UserError, match=f"expected format version 4 to 10, found {version}; restructure again"
    ):
        open_plan(directory) if name == PLAN_FILE else read_shard(stored, 1)


def test_plans_with_outliers_have_a_version_of_their_own(directory, tmp_path):
    """Older programs would send other messages; what has none is as it was."""
    network, plan = make_case(seed=3)
    assert plan.outliers and (directory / PLAN_FILE).read_bytes().startswith(b"repurpose-hpc 4 ")
    write_plan(tmp_path / "with", network, plan, PROVENANCE)
    write_plan(tmp_path / "without", network, replace(plan, outliers={}), PROVENANCE)
    versions = [
        (tmp_path / name / file).read_bytes().split()[1]
        for name in ("with", "without")
        for file in (PLAN_FILE, "worker-0001.h5")
    ]
    assert versions == [b"9", b"4", b"4", b"4"]
    stored = open_plan(tmp_path / "with")
    assert {name: mask.tolist() for name, mask in stored.plan.outliers.items()} == {
        name: mask.tolist() for name, mask in plan.outliers.items()
    }
    block = read_shard(stored, 1).blocks[network.mixings[0].name]
    np.testing.assert_array_equal(block.outliers, plan.outliers[network.mixings[0].source])


def test_another_kind_of_hdf5_file(directory):
    with h5py.File(directory / PLAN_FILE, "w") as file:
        file["x"] = np.ones(3)
    with pytest.raises(UserError, match="found .* bytes of something else; check the path"):
        open_plan(directory)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "plan").write_text("precious")
    with pytest.raises(UserError, match="found a file; choose another directory"):
        write_plan(tmp_path / "plan", *make_case(), {})
    assert (tmp_path / "plan").read_text() == "precious"


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="found thesis.tex; move it away, or choose another"):
        write_plan(tmp_path, *make_case(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_beside_an_earlier_plan_is_not_deleted(directory):
    (directory / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="found thesis.tex"):
        write_plan(directory, *make_case(), {})
    assert (directory / "thesis.tex").read_text() == "precious" and open_plan(directory)


def test_a_link_to_a_plan_stays_one(directory, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(directory)
    write_plan(link, *make_case(), {"second": True})
    assert link.is_symlink() and open_plan(directory).provenance == {"second": True}


def test_there_is_a_plan_at_every_moment(directory):
    """Readers meanwhile find the earlier or the later one, whole."""
    end, seen = threading.Event(), []

    def read():
        while not end.is_set():
            seen.append(open_plan(directory).provenance.get("number", -1))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(20):
            write_plan(directory, *make_case(), {"number": number})
    finally:
        end.set()
        reader.join()
    assert seen == sorted(seen) and len(set(seen)) > 2


def test_not_writable(tmp_path):
    (tmp_path / "file").write_text("")  # a parent that no user, not even root, can write to
    with pytest.raises(UserError, match="expected to be able to write there: .*choose another place"):
        write_plan(tmp_path / "file" / "plan", *make_case(), {})


@pytest.mark.parametrize("limit", [1000, 12_000, 40_000])
def test_nothing_is_left_when_the_disk_is_full(tmp_path, limit):
    network, plan = make_case(widths=(60, 60))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        with pytest.raises(UserError, match="expected to be able to write there"):
            write_plan(tmp_path / "plan", network, plan, {"padding": "x" * 50_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_plan_survives_a_failure_midway(directory, monkeypatch):
    earlier = {path.name: path.read_bytes() for path in directory.iterdir()}

    def fail(network, plan, worker, dtype):
        if worker == 1:
            raise KeyboardInterrupt
        return make_shard(network, plan, worker, dtype)

    monkeypatch.setattr(files, "make_shard", fail)
    with pytest.raises(KeyboardInterrupt):
        write_plan(directory, *make_case(seed=1), {})
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == earlier
    assert list(directory.parent.iterdir()) == [directory]


def test_graphs_come_back_as_they_were(tmp_path):
    builder = Builder()
    tensor = builder.input("input", 2, (3,))
    tensor = builder.elementwise("clip", tensor, Activation("clip", -np.inf, 6.0))
    tensor = builder.rearrange("pad", tensor, np.array([-1, 0, 1, 2]), (4,), 0.5)
    window = Window((4,), (2,), (2,), (1,), (0,), (2,))
    tensor = builder.pool("pool", tensor, "average", window, True, (4,))
    normalised = builder.mixing("mean", tensor, np.full((1, 4), 0.25), np.zeros(1), whole_map((2,)), True)
    graph = builder.build((tensor, normalised), ("identity", "softmax"))
    maps = convolutional_network()
    with h5py.File(tmp_path / "graphs.h5", "w") as file:
        for number, network in enumerate((graph, maps)):
            write_graph(file.create_group(str(number)), network)
            assert_same(read_graph(file[str(number)]), network)
            assert read_graph(file[str(number)]).fingerprint() == network.fingerprint()
