"""JIT policy: warm-up compiles all that a run calls, plain Python on request, and where caches go."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import TESTS
from repurpose_hpc import kernels
from repurpose_hpc.kernels.replay import Recording

USE_ONE = (
    "import kernels, numpy; a = numpy.ones(3); kernels.activate_in_place(a, 1, 0.0, 0.0); print(a.sum())"
)


def run(arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def package(tmp_path):
    """A copy of the kernels whose own ``__pycache__`` cannot be written (not even by root)."""
    copy = tmp_path / "kernels"
    shutil.copytree(Path(kernels.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in {file.parent for file in copy.rglob("*.py")}:
        (folder / "__pycache__").write_text("a file where a folder is needed")
    return copy


def test_warm_up_leaves_nothing_to_compile():
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        pytest.skip("nothing is compiled")
    kernels.warm_up(np.float32, maps=True, codes=np.dtype(np.uint16), zeros=True)
    compiled = [getattr(kernels, name) for name in kernels.__all__]
    compiled = [kernel for kernel in compiled if hasattr(kernel, "signatures")]
    before = [len(kernel.signatures) for kernel in compiled]

    relu, index = kernels.Epilogue(kernels.ACTIVATION_CODES["relu"], 0.0, 0.0), kernels.INDEX_DTYPE
    W, X, bias = np.ones((6, 5), np.float32), np.ones((5, 3), np.float32), np.ones(6, np.float32)
    x, out, vector = X[:, 0].copy(), np.empty((6, 3), np.float32), np.empty(6, np.float32)
    rows, pointers = np.zeros(2, index), np.zeros(7, index)
    panels = np.ones((1, 5, kernels.panel_rows(W.dtype)), W.dtype)
    scratch = np.empty(kernels.dense_scratch(5, 3, W.dtype), W.dtype)
    for scales in (bias, bias[:0]):
        kernels.dense(panels, scales, X, bias[:, None], out, scratch, relu)
        kernels.dense(panels, scales, X, out, out, scratch, relu)
    codes = np.ones((2, 3), np.uint16)
    kernels.clear(out)
    kernels.pack_codes(X, rows, bias[:2], codes)
    kernels.unpack_codes(codes, bias[:2], out[:2])
    for numbers in (codes.reshape(-1), vector.view(np.uint32)):
        kernels.expand(numbers, kernels.squeeze(numbers, numbers.copy()), numbers.copy())
    kernels.csr_vector(bias, rows, pointers, x, vector, vector, relu)
    kernels.csr_batch(bias, rows, pointers, X, bias[:, None], out, relu)
    kernels.csr_batch(bias, rows, pointers, X, out, out, relu)
    kernels.finish(bias[:, None], out, out, relu)
    kernels.activate_in_place(out, *relu)
    kernels.activate_in_place(vector, *relu)
    kernels.pack(x[:, None], rows, np.empty((2, 1), np.float32))
    kernels.unpack(np.empty((2, 3), np.float32), rows, out)
    kernels.unpack_add(np.empty((2, 3), np.float32), rows, out)
    use_maps(relu)
    assert [len(kernel.signatures) for kernel in compiled] == before
    recording = Recording(kernels.Types(W.dtype, W.dtype, codes.dtype))
    assert recording._loop.signatures


def use_maps(relu):
    def ones(*shape):
        return np.ones(shape, np.float32)

    x, out, bias, flat = ones(5, 2, 4, 3), ones(5, 2, 4, 3), ones(5, 1, 1, 1), ones(5, 2, 12)
    window = kernels.Window2D((3, 3), (1, 1), (1, 1), (1, 1))
    kernels.convolve_direct(kernels.pack_weights(ones(5, 45)), x, window, bias, out, relu)
    kernels.convolve_direct(kernels.pack_weights(ones(5, 45)), x, window, out, out, relu)
    kernels.patches(x, 1, (4, 3), window, ones(45, 21))
    kernels.depthwise(ones(5, 3, 3), x, window, bias, out, relu)
    kernels.max_pool(x, window, out)
    kernels.average_pool(x, window, (1, 1, 1, 1), out)
    kernels.affine(ones(5, 1), flat, ones(5, 1), flat, relu)
    kernels.combine(kernels.COMBINATION_CODES["multiply"], flat, ones(5, 2, 1), flat, relu)
    kernels.take_positions(flat, np.array([-1, 3]), 0.0, ones(5, 2, 2))


def test_warm_up_refuses_other_types():
    with pytest.raises(ValueError, match="float16"):
        kernels.warm_up(np.float16)


def test_user_cache_where_the_package_is_read_only(package, tmp_path):
    cache = tmp_path / "cache"
    done = run(["-c", USE_ONE], tmp_path, XDG_CACHE_HOME=str(cache), NUMBA_CACHE_DIR="")
    assert done.returncode == 0, done.stderr
    assert list(cache.rglob("*.nbi"))


def test_cache_directory_of_the_user_is_respected(package, tmp_path):
    cache = tmp_path / "chosen"
    done = run(["-c", USE_ONE], tmp_path, NUMBA_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    assert list(cache.rglob("*.nbi"))


def test_compiles_where_nothing_can_be_cached(package, tmp_path):
    nowhere = {"XDG_CACHE_HOME": os.devnull, "HOME": os.devnull, "NUMBA_CACHE_DIR": ""}
    done = run(["-c", USE_ONE], tmp_path, **nowhere)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 3


def test_kernels_as_plain_python():
    """The inner functions too, which ``py_func`` of an outer one leaves compiled."""
    files = [
        f"test_{name}.py" for name in ("products", "activations", "packing", "flags", "maps", "comm_dtype")
    ]
    pytest_arguments = ["-q", "-p", "no:cacheprovider", "-k", "not plain"]  # both versions are plain here
    done = run(["-m", "pytest", *pytest_arguments, *files], TESTS / "unit/kernels", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stdout + done.stderr
