"""What there is to say of a restructured network: the part of the report that follows from its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import GHOST, POSITION, RELAY
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.stages import named_stages
from repurpose_hpc.restructure.calibration.evaluation import Comparison
from repurpose_hpc.restructure.computation import compute_fraction
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.options import Options


def account(
    network: Network,
    options: Options,
    cut: Cut,
    findings: Mapping[str, Any],
    held_out: Comparison | None,
) -> dict[str, Any]:
    """What is sent, kept and computed, in all and layer by layer.

    Args:
        network: that was cut.
        options: how.
        cut: the result.
        findings: on the calibration data, with ``relative_error`` of every mixing.
        held_out: errors on samples that are held out; None: they are not known.
    """
    plan, traffic = cut.plan, cut.traffic_matrix()
    layers = [_layer(network, cut, mixings, findings, held_out) for mixings in _layers(network)]
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings)
    values_sent = int(traffic.sum())
    links = {}
    if options.link_costs is not None:
        links["link_cost"] = float((traffic * np.array(options.link_costs)).sum())
    return {
        "workers": plan.workers,
        "part_weights": list(options.part_weights or (1.0,) * plan.workers),
        "input_placement": plan.input_placement,
        "values_sent": values_sent,
        "dense_values": dense,
        "comm_fraction": values_sent / dense if dense else 0.0,
        "rounds": rounds_of(cut.network, plan),
        "round_cost": options.round_cost,
        "comm_dtype": plan.comm_dtype,
        "bytes_per_sample": plan.bytes_sent(cut.network, plan.comm_dtype),
        "weights_kept": cut.network.weight_count,
        "weights_of_workers": plan.weights_held(cut.network).tolist(),
        "compute_fraction": compute_fraction(network, cut, options),
        **links,
        **({} if options.late is None else {"sweeps": options.late}),
        **named_stages(cut.network, plan),
        "layers": layers,
    }


def _layers(network: Network) -> list[list[Mixing]]:
    """The mixings of every layer: one, or all parts of one that is shared out by position."""
    layers: dict[str, list[Mixing]] = {}
    for mixing in network.mixings:
        layers.setdefault(network.layer_of(mixing.name), []).append(mixing)
    return [*layers.values()]


def _layer(
    network: Network,
    cut: Cut,
    mixings: list[Mixing],
    findings: Mapping[str, Any],
    held_out: Comparison | None,
) -> dict[str, Any]:
    """One layer in the report: what brings maps to its last mixing counts as its own."""
    last, plan = mixings[-1], cut.plan
    layer, relays = network.layer_of(last.name), cut.relays(last.name)
    # Relays are counted for themselves, copies with what they are copies of.
    graph, names = cut.network if plan.copies else network, {mixing.name for mixing in mixings}
    parts = [part for part in graph.mixings if plan.original(part) in names]
    forms = {plan.mixings[part.name].form for part in parts} - {GHOST} or {GHOST}
    return {
        "name": layer,
        "form": POSITION if layer != last.name else RELAY if relays else forms.pop(),
        "inputs": last.weights.shape[1],
        "outputs": last.weights.shape[0],
        "values_sent": sum(plan.values_sent(graph, part) for part in parts) + relays,
        "relays": relays,
        "dense_values": sum(plan.dense_values(network, mixing) for mixing in mixings),
        "inputs_removed": cut.removed(last.source),
        "relative_error": findings["relative_error"][last.name],
        **({} if held_out is None else {"relative_error_held_out": held_out.layer_errors[last.name]}),
    }
