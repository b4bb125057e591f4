"""A network with relays against one without, where relays take more than values.

Relays are chosen for what they tell for a value.  What they compute and weigh is not looked at then, and goes
off what is left for everything else.  So with a limit on either both networks are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from repurpose_hpc.io.samples import Samples
from repurpose_hpc.restructure.context import Log
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.promise import Restructure
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall


def with_relays_where_they_pay(make: Restructure, error: Callable[[Cut, Samples], float]) -> Restructure:
    """A way to restructure that leaves out relays where that is better.

    Args:
        make: restructures with what may travel.
        error: of a network on samples; the same on all ranks.

    Returns:
        as ``make``; where computation, weights or their imbalance are limited it makes networks with relays
        and without, and returns the one with the smaller error on the samples that both were made with.
    """

    def better(samples: Samples, options: Options, log: Log) -> Cut:
        if "relays" not in options.may_travel or not options.limits_relays:
            return make(samples, options, log)
        forms = tuple(form for form in options.may_travel if form != "relays")
        found = []
        try:
            found.append(make(samples, options, lambda line: log(f"with relays: {line}")))
        except BudgetTooSmall as problem:
            log(f"with relays: {problem}")
        without = replace(options, forms=forms)
        found.append(make(samples, without, lambda line: log(f"without relays: {line}")))
        if len(found) == 1:
            return found[0]
        errors = [error(cut, samples) for cut in found]
        log(f"output error with relays {errors[0]:.4g}, without {errors[1]:.4g}: the better one is kept")
        return found[errors.index(min(errors))]

    return better
