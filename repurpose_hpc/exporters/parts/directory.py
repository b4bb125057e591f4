"""A directory with the stages of all workers, and with ``parts.json``, which says what goes where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repurpose_hpc.errors import UserError
from repurpose_hpc.exporters.ends import add_back, add_front, settled, take_outputs
from repurpose_hpc.exporters.graph import REAL, Value
from repurpose_hpc.exporters.network import empty_graph, samples_at_a_time
from repurpose_hpc.exporters.onnx_file import write_onnx
from repurpose_hpc.exporters.parts.worker import Held, Stages
from repurpose_hpc.io.atomic import followed, put_directory_in_place, temporary_directory, write_text, writing
from repurpose_hpc.model.ends import Port, Subgraph
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.rounds import rounds_before, waiting_mixings
from repurpose_hpc.plan.shard import Shard

DESCRIPTION, FORMAT, VERSION = "parts.json", "repurpose-hpc parts", 1
FRONT, BACK = "front.onnx", "back.onnx"


def check_place(directory: Path) -> None:
    """Refuse a directory that holds anything else than parts.

    Raises:
        UserError: it does, or is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: expected a directory for the parts, found a file; choose another name")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / DESCRIPTION).is_file():
        raise UserError(
            f"{directory}: expected an empty directory, or earlier parts, which are replaced, found other "
            "files; choose another one"
        )


def write_parts(network: Network, plan: Plan, shards: Iterable[Shard], directory: Path) -> dict[str, Any]:
    """Write the stages of all workers; earlier parts in ``directory`` are replaced.

    Args:
        network: of samples; mixings may be bare.
        plan: of it.
        shards: of all workers, in order, taken one at a time.
        directory: gets the files.

    Returns:
        the content of ``parts.json``.

    Raises:
        UserError: an end of the model cannot be written, ``directory`` cannot, or onnx is missing.
    """
    network.check_samples()
    check_place(directory)
    network, directory = replace(network, ends=settled(network.ends)), followed(directory)
    with writing(directory), temporary_directory(directory) as temporary:
        complete = temporary / "complete"
        complete.mkdir()
        description = _written(network, plan, shards, complete)
        write_text(complete / DESCRIPTION, _in_lines(description))
        put_directory_in_place(complete, directory)
    return description


def _in_lines(description: dict[str, Any]) -> str:
    """JSON with a line for each entry, and for each item of a list."""

    def lines(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value)
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"

    entries = (f"{json.dumps(key)}: {lines(value)}" for key, value in description.items())
    return "{\n " + ",\n ".join(entries) + "\n}\n"


def _written(network: Network, plan: Plan, shards: Iterable[Shard], directory: Path) -> dict[str, Any]:
    """Write all files but the description, which is returned."""
    rounds = rounds_before(network, waiting_mixings(network, plan))
    front, inputs = _front(network)
    workers: list[Stages] = []
    stages: list[list[dict[str, Any] | None]] = []
    for shard in shards:
        worker = Stages(shard, plan, rounds, inputs)
        stages.append([*_stages(worker, shard.worker, directory)])
        worker.graphs.clear()  # their weights
        workers.append(worker)
    back, results = _back(network, workers)
    by_round = zip(*stages, strict=True), _messages(workers, len(stages[0]))
    return {
        "format": FORMAT,
        "version": VERSION,
        "workers": plan.workers,
        "inputs": [vars(port) for port in front.inputs],
        "outputs": [vars(port) for port in back.outputs],
        "front": _end_file(front, directory / FRONT),
        "back": _end_file(back, directory / BACK),
        "reads": [*_reads(inputs, workers)],
        "rounds": [
            {"stages": [each for each in at_once if each], "messages": messages}
            for at_once, messages in zip(*by_round, strict=True)
        ],
        "results": results,
    }


def _end_file(end: Subgraph, path: Path) -> str | None:
    """The name of the file of an end, once it is written; None: there is nothing to compute."""
    if not end.steps:
        return None
    write_onnx(end, path)
    return path.name


def _front(network: Network) -> tuple[Subgraph, dict[str, Value]]:
    """What stands before the network, without nodes if nothing does, and the inputs of the network."""
    graph = empty_graph(network)
    values = add_front(graph, network)
    for tensor, value in values.items() if graph.steps else ():
        name = graph.names.new(network.space_of[tensor])
        graph.output(value.name, Port(name, value.sizes, REAL.name))
        values[tensor] = value._replace(name=name)
    return graph.subgraph(samples_at_a_time(network)), values


def _back(network: Network, workers: Sequence[Stages]) -> tuple[Subgraph, list[dict[str, Any]]]:
    """What stands behind the network, without nodes if nothing does, and where its outputs come from."""
    graph = empty_graph(network)
    ports, values = take_outputs(graph, network), {}
    for tensor in dict.fromkeys(network.output_tensors):
        held = next(worker.outputs[tensor].value for worker in workers if tensor in worker.outputs)
        whole = held.of(network.space(tensor).neurons, tensor.removesuffix(".y"))
        values[tensor] = whole._replace(name=graph.input(whole.name, whole.sizes))
    add_back(graph, network, values, ports)
    given = [(value.name, tensor) for tensor, value in values.items()]
    if all(step.operator == "Identity" for step in graph.steps):
        graph.steps.clear()
        given = [(port.name, tensor) for port, tensor in zip(ports, network.output_tensors, strict=True)]
    results = [_result(name, values[tensor], tensor, workers) for name, tensor in given]
    return graph.subgraph(samples_at_a_time(network)), results


def _result(name: str, whole: Value, tensor: str, workers: Sequence[Stages]) -> dict[str, Any]:
    """Where the neurons of an output of the network come from."""
    parts = [
        {"worker": number, **_held(worker.outputs[tensor])}
        for number, worker in enumerate(workers)
        if tensor in worker.outputs
    ]
    return {"tensor": name, "shape": whole.sizes, "neuron_axis": _axis(whole), "parts": parts}


def _held(held: Held) -> dict[str, Any]:
    return {"value": held.value.name, "neurons": held.neurons.tolist()}


def _axis(value: Value) -> int:
    """The axis of the neurons, counted from that of the samples."""
    return len(value.sizes) if value.neurons_last else 1


def _reads(inputs: Mapping[str, Value], workers: Sequence[Stages]) -> Iterator[dict[str, Any]]:
    """The neurons of the inputs of the network that each worker reads."""
    for number, worker in enumerate(workers):
        for tensor, held in worker.inputs.items():
            given = inputs[tensor]
            yield {
                "worker": number,
                "tensor": given.name,
                "neuron_axis": _axis(given),
                **_held(held),
            }


def _stages(worker: Stages, number: int, directory: Path) -> Iterator[dict[str, Any] | None]:
    """Write the stages of a worker; what is to be said of each, None where there is nothing to compute."""
    for place, graph in enumerate(worker.graphs):
        if not graph.outputs:
            yield None
            continue
        file = directory / f"worker_{number}" / f"stage_{place}.onnx"
        file.parent.mkdir(exist_ok=True)
        write_onnx(graph.subgraph(), file)
        yield {
            "worker": number,
            "file": str(file.relative_to(directory)),
            "inputs": [port.name for port in graph.inputs],
            "outputs": [port.name for port in graph.outputs],
        }


def _messages(workers: Sequence[Stages], rounds: int) -> list[list[dict[str, Any]]]:
    """What is sent after each round, by both ends."""
    names = {
        (message.round, message.kind, message.layer, message.other, number): message.value
        for number, worker in enumerate(workers)
        for message in worker.received
    }
    messages: list[list[dict[str, Any]]] = [[] for _ in range(rounds)]
    for number, worker in enumerate(workers):
        for message in worker.sent:
            arrives_as = names[message.round, message.kind, message.layer, number, message.other]
            messages[message.round].append(
                {
                    "layer": message.layer,
                    "kind": message.kind,
                    "from": number,
                    "value": message.value,
                    "to": message.other,
                    "as": arrives_as,
                    "neurons": message.neurons.tolist(),
                }
            )
    return messages
