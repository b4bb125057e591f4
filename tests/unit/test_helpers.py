"""What other tests lean on."""

from itertools import combinations, product

import pytest

from helpers.covering import covering


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1, 2), (2, 3, 4, 2), (7, 5, 3, 3, 2)])
def test_all_pairs_of_values_are_met_by_few_sets(sizes):
    parameters = [[f"{number}-{value}" for value in range(size)] for number, size in enumerate(sizes)]
    chosen = covering(*parameters)
    for (i, some), (j, others) in combinations(enumerate(parameters), 2):
        assert {(each[i], each[j]) for each in chosen} == set(product(some, others))
    largest, second = sorted(sizes)[:-3:-1]
    assert largest * second <= len(chosen) <= 1.3 * largest * second
    assert chosen == covering(*parameters)
