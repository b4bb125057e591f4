"""Which way of the exchange is taken, and which are refused."""

import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.runtime import choice


def test_what_this_mpi_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(choice, "available", lambda: ["ialltoallv", "p2p"])
    with pytest.raises(UserError, match="--exchange persistent: expected one of ialltoallv, p2p"):
        choice.check_way("persistent")
    choice.check_way("p2p")
    choice.check_way(choice.AUTO)
