"""What a shell completes when it has read the script of ``completion``."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from repurpose_hpc.commands.completion import SHELLS
from repurpose_hpc.commands.table import COMMANDS


def printed(shell: str, *places: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; ``places`` are searched for packages."""
    path = os.pathsep.join(filter(None, [*map(str, places), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "repurpose_hpc", "completion", shell]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


def test_bash_completes_commands_options_words_and_files(tmp_path):
    pytest.importorskip("shtab")
    script = tmp_path / "script"
    script.write_text(printed("bash").stdout)
    (tmp_path / "input.npz").touch()

    def completed(*words: str) -> list[str]:
        line = f"source ./script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        ask = f"{line} _shtab_repurpose_hpc; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    listed = [name for name, row in COMMANDS.items() if row.listed]
    assert set(listed) == set(completed("repurpose-hpc", "''"))
    assert completed("repurpose-hpc", "restructure", "--comm-d") == ["--comm-dtype"]
    assert "shared" in completed("repurpose-hpc", "infer", "--exchange", "s")
    assert completed("repurpose-hpc", "infer", "--input", "in") == ["input.npz"]
    assert completed("repurpose-hpc", "bench", "ex") == ["exchange"]


@pytest.mark.parametrize("shell", SHELLS[1:])
def test_other_shells_have_scripts(shell):
    pytest.importorskip("shtab")
    assert "restructure" in printed(shell).stdout


def test_without_the_package_it_says_what_to_install(tmp_path):
    (tmp_path / "shtab.py").write_text("raise ImportError")
    done = printed("bash", tmp_path, status=1)
    assert "pip install 'repurpose-hpc[completion]'" in done.stderr and done.stdout == ""
