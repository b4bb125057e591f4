"""Every variant of scripts/ablation.py takes something from the method as it is now."""

import ablation
import numpy as np
import pytest

from helpers.small_plans import random_network
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

NETWORK = random_network(3, widths=(20, 30, 30, 8))
OPTIONS = Options(4, 0.1, "partitioned")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("data") / "x.npy", np.random.default_rng(0)
    np.save(path, rng.standard_normal((300, 20)) @ rng.standard_normal((20, 20)))
    return open_samples(path)


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_variants_restructure(samples, variant):
    result = restructure(NETWORK, samples, OPTIONS, method=ablation.VARIANTS[variant])
    sent = sum(result.plan.values_sent(NETWORK, mixing) for mixing in NETWORK.mixings)
    assert 0 < sent <= 0.1 * sum(result.plan.dense_values(NETWORK, mixing) for mixing in NETWORK.mixings)
