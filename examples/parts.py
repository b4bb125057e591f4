"""Run the parts of a network, as ``repurpose-hpc export --to DIRECTORY`` writes them, by onnxruntime alone.

    python examples/parts.py DIRECTORY INPUT.npy OUTPUT.npy

Here one process plays all workers.  On devices, each has the stages of one worker, and sends what
``messages`` say.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def play(directory: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of the model, of its inputs, samples first."""
    parts = json.loads((directory / "parts.json").read_text())
    samples = len(inputs[0])
    ports = zip(parts["inputs"], inputs, strict=True)
    given = {port["name"]: x.astype(port["dtype"]) for port, x in ports}
    if parts["front"]:
        given = run(directory / parts["front"], given)
    # What each worker has, by name; an input of that name takes a zero for each sample.
    workers = [{"zeros": np.zeros((samples, 1), np.float32)} for _ in range(parts["workers"])]
    for read in parts["reads"]:
        whole = given[read["tensor"]]
        workers[read["worker"]][read["value"]] = whole.take(read["neurons"], read["neuron_axis"])
    for each_round in parts["rounds"]:
        for stage in each_round["stages"]:
            values = workers[stage["worker"]]
            feeds = {name: values[name] for name in stage["inputs"]}
            values.update(run(directory / stage["file"], feeds))
        for message in each_round["messages"]:
            workers[message["to"]][message["as"]] = workers[message["from"]][message["value"]]
    results = {}
    for result in parts["results"]:
        whole = np.empty((samples, *result["shape"]), np.float32)
        by_neuron = np.moveaxis(whole, result["neuron_axis"], 0)
        for part in result["parts"]:
            own = workers[part["worker"]][part["value"]]
            by_neuron[part["neurons"]] = np.moveaxis(own, result["neuron_axis"], 0)
        results[result["tensor"]] = whole
    if parts["back"]:
        results = run(directory / parts["back"], results)
    return [results[each["name"]] for each in parts["outputs"]]


def run(file: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of an ONNX file, by name."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


if __name__ == "__main__":
    directory, source, target = map(Path, sys.argv[1:])
    (outputs,) = play(directory, np.load(source))
    np.save(target, outputs)
