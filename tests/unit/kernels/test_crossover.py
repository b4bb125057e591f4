"""The choice of a product follows the measured limits."""

import numpy as np
import pytest

from repurpose_hpc.kernels import csr_is_faster


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 63, 64, 1000])
def test_csr_for_sparse_blocks_only(batch):
    assert csr_is_faster(0.0, batch)
    assert not csr_is_faster(0.5, batch)


def test_csr_limit_depends_on_the_batch():
    assert [csr_is_faster(0.1, batch) for batch in (1, 2, 8, 16, 255, 256)] == [
        *(False, True, True, True, True, False)
    ]


def test_csr_for_any_batch_is_faster_for_all():
    for density in np.linspace(0, 0.3, 61).tolist():
        assert csr_is_faster(density, None) == all(csr_is_faster(density, batch) for batch in range(1, 300))
