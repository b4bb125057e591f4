"""Machine code on disk: where it is, who may have put it there, and who compiles."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT
from repurpose_hpc import kernels

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="without the compiler there is no machine code"
)

# One kernel, and what was compiled for it by this process.
USE_ONE = """
import kernels, numba, numpy
compiled = []
class Listener(numba.core.event.Listener):
    def on_start(self, event):
        compiled.append(event.data["dispatcher"].py_func.__name__)
    def on_end(self, event):
        pass
numba.core.event.register("numba:compile", Listener())
a = numpy.full((3, 1), 2.0)
kernels.pack(a, numpy.zeros(1, numpy.uint32), a[:1])
print(a.sum(), *compiled)
"""
COMPILED, LOADED = "6.0 pack\n", "6.0\n"


def start(tmp_path, code=USE_ONE, tree=ROOT, **environment):
    """A process whose caches are in ``tmp_path`` unless the environment says otherwise."""
    places = {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(tree),
        **dict.fromkeys(("XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), ""),
    }
    pipe = subprocess.PIPE
    env = {**os.environ, **places, **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=tree, env=env, stdout=pipe, stderr=pipe, text=True
    )


def finish(process):
    """What it printed, if that was all and all went well."""
    output, errors = process.communicate(timeout=170)
    assert (process.returncode, errors) == (0, "")
    return output


def use(tmp_path, **options):
    return finish(start(tmp_path, **options))


def folders(place):
    return sorted(place.glob("kernels-*"))


def test_processes_that_begin_at_once_compile_once(tmp_path):
    outputs = sorted(finish(process) for process in [start(tmp_path) for _ in range(4)])
    assert outputs == [LOADED] * 3 + [COMPILED]


def test_the_places_in_their_order(tmp_path):
    numba, xdg = tmp_path / "numba", tmp_path / "xdg"
    for chosen, place in (
        ({"NUMBA_CACHE_DIR": str(numba), "XDG_CACHE_HOME": str(xdg)}, numba),
        ({"XDG_CACHE_HOME": str(xdg)}, xdg / "repurpose-hpc"),
        ({}, tmp_path / "home/.cache/repurpose-hpc"),
    ):
        assert not folders(place)
        assert use(tmp_path, **chosen) == COMPILED
        (folder,) = folders(place)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.glob("*.nbi"))


@pytest.mark.parametrize("obstacle", ["file", "writable by others", "link"])
def test_a_place_that_is_not_private_is_passed_over(tmp_path, obstacle):
    assert use(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "first")) == COMPILED
    (folder,) = folders(tmp_path / "first")
    if obstacle == "file":
        shutil.rmtree(tmp_path / "first")
        (tmp_path / "first").write_text("a file where a folder is needed")
    elif obstacle == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod(0o777)
    assert use(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "first")) == COMPILED
    assert folders(tmp_path / "home/.cache/repurpose-hpc")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_passed_over(tmp_path):
    assert use(tmp_path) == COMPILED
    (folder,) = folders(tmp_path / "home/.cache/repurpose-hpc")
    os.chown(folder, 12345, -1)
    assert use(tmp_path) == COMPILED
    assert folders(tmp_path / f"repurpose-hpc-{os.geteuid()}")


def test_compiles_in_silence_where_nothing_can_be_kept(tmp_path):
    nowhere = {name: os.devnull for name in ("XDG_CACHE_HOME", "HOME", "TMPDIR")}
    # tempfile would look further for a folder that can be written.
    code = f"import tempfile; tempfile.tempdir = {os.devnull!r}\n{USE_ONE}"
    assert [use(tmp_path, code=code, **nowhere) for _ in range(2)] == [COMPILED] * 2
    assert not list(tmp_path.rglob("kernels-*"))


def test_other_sources_have_other_machine_code(tmp_path):
    """Also where the function is in another file than the one that was edited."""
    copy = tmp_path / "copy"
    shutil.copytree(
        Path(kernels.__file__).parent, copy / "kernels", ignore=shutil.ignore_patterns("__pycache__")
    )
    assert use(tmp_path) == COMPILED
    assert use(tmp_path, tree=copy) == LOADED  # another place, the same sources
    with open(copy / "kernels/messages/zeros.py", "a") as source:
        source.write("# edited\n")
    assert use(tmp_path, tree=copy) == COMPILED
    assert len(folders(tmp_path / "home/.cache/repurpose-hpc")) == 2


def test_folders_that_nobody_uses_go(tmp_path):
    """At the first use of a day; what only looks like one of them, or is used, stays."""
    place = tmp_path / "home/.cache/repurpose-hpc"
    assert use(tmp_path) == COMPILED
    (folder,) = folders(place)
    ages = {"0123456789abcdef": 61, "fedcba9876543210": 59, "notes": 61}
    for name, days in ages.items():
        (place / f"kernels-{name}").mkdir(mode=0o700)
        (place / f"kernels-{name}" / "some.nbi").write_text("")
        set_age(place / f"kernels-{name}", days)
    assert use(tmp_path) == LOADED
    assert len(folders(place)) == 4
    set_age(folder, 2)
    assert use(tmp_path) == LOADED
    assert time.time() - folder.stat().st_mtime < 1000
    assert folders(place) == sorted([folder, place / "kernels-fedcba9876543210", place / "kernels-notes"])


def set_age(folder, days):
    then = time.time() - 86_400 * days
    os.utime(folder, (then, then))


def test_a_compiler_that_is_killed_holds_nobody_up(tmp_path):
    """It stops in the middle of its work, with the lock, and is killed while another process waits."""
    stops = "import numba.core.dispatcher as d, sys, time\n" + (
        "def stop(self, *arguments):\n    print('at work', flush=True)\n    time.sleep(1000)\n"
        "d._FunctionCompiler.compile = stop\n"
    )
    holder = start(tmp_path, code=stops + USE_ONE)
    assert holder.stdout.readline() == "at work\n"
    waiting = start(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=6)
    holder.send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert finish(waiting) == COMPILED
    assert time.monotonic() - began < 100
    holder.communicate()


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_files_that_are_cut_off_are_made_anew(tmp_path, suffix):
    assert use(tmp_path) == COMPILED
    (folder,) = folders(tmp_path / "home/.cache/repurpose-hpc")
    for path in folder.glob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:20])
    assert use(tmp_path) == COMPILED
    assert use(tmp_path) == LOADED
