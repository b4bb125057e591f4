"""A long run in short: its ranks do not grow, and one that does is noticed."""

import pytest
from faults import soak

from helpers.injection import Injection

pytestmark = pytest.mark.slow

BATCHES, RANKS = 6000, 2
FORWARD = "repurpose_hpc.runtime.program:Program.forward"
# A request for every batch that nobody waits for, a file, a thread.
LEAKS = {
    "memory": "from mpi4py import MPI; kept.append(MPI.COMM_SELF.Irecv(bytearray(8), tag=len(kept)))",
    "more files": "import os; os.open('/dev/null', 0) if not len(kept) % 10 else None; kept.append(0)",
    "more threads": "import threading, time\n"
    "if not len(kept) % 100: threading.Thread(target=time.sleep, args=[9], daemon=True).start()\n"
    "kept.append(0)",
}


def test_nothing_grows(tmp_path):
    row = soak.measure(soak.Case(BATCHES, RANKS), tmp_path)
    assert row["wrong"] == [] and row["looks"] > 20


@pytest.mark.parametrize("what", LEAKS)
def test_what_grows_is_seen(tmp_path, what):
    code = f"import sys\nkept = sys.modules.setdefault('kept', [])\n{LEAKS[what]}"
    row = soak.measure(soak.Case(BATCHES, RANKS), tmp_path, [Injection(FORWARD, code, call=0)])
    assert [wrong for wrong in row["wrong"] if what in wrong], row
