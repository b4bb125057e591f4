"""Makes tests/data/spiking/: ``.nir`` files of the programs that write them, with what these compute.

    pip install nir==1.0.8 nirtorch==2.6 snntorch==1.0.0 norse==1.1.0 sinabs==3.1.3 spikingjelly==2.0.0
    python tests/data/make_spiking.py

norse, sinabs and nirtorch contradict each other about versions: ``--no-deps``, and what they miss by hand.
For each network NAME.nir is what the exporter of the program writes, or paper_NAME.nir as it was published
with the paper on NIR (https://github.com/neuromorphs/NIR, paper/02_cnn and 03_rnn; see paper_LICENSE).
NAME.npz has ``x``, the trains that its layers were given, (samples, steps, ...), and what came out of each
layer of neurons in float64, by the name of its node: spikes as bits, ``packed.NODE`` and ``shape.NODE``, or
potentials.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import nir
import numpy as np
import torch
from torch import nn

OUT = Path(__file__).parent / "spiking"
SAMPLES, STEPS = 12, 30


def main() -> None:
    OUT.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        graph, x, outputs = make()
        if graph is not None:
            # Chunks, which compression needs, are larger than what is in them.
            nir.write(OUT / f"{name}.nir", graph, compression="gzip" if name == "snntorch_zero" else None)
        arrays = {"x": x.numpy().astype(np.uint8 if ((x == 0) | (x == 1)).all() else np.float64)}
        for node, values in outputs.items():
            if not ((values == 0) | (values == 1)).all():
                arrays[node] = values
                continue
            arrays |= {f"packed.{node}": np.packbits(values.astype(bool)), f"shape.{node}": values.shape}
            print(f"{name}: {node}: {values.size} values, {int(values.sum())} spikes")
        np.savez_compressed(OUT / f"{name}.npz", **arrays)


def _trains(*shape: int, rate: float = 0.3) -> torch.Tensor:
    return (torch.rand(SAMPLES, STEPS, *shape) < rate).double()


def _uneven(low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape)


def _stepped(layers: nn.Sequential, x: torch.Tensor, spiking: tuple[type, ...], reset: Callable) -> dict:
    """Outputs of the layers of neurons, layer by layer and step by step."""
    reset()
    recorded: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for step in range(STEPS):
            value = x[:, step]
            for name, layer in layers.named_children():
                value = layer(value)
                value = value[0] if isinstance(value, tuple) else value
                if isinstance(layer, spiking):
                    recorded.setdefault(name, []).append(value)
    return {name: torch.stack(values, 1).numpy() for name, values in recorded.items()}


def _snntorch(layers: nn.Sequential, x: torch.Tensor) -> tuple:
    import snntorch as snn
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    layers = layers.double()
    graph = export_to_nir(layers, x[:1, 0], ignore_dims=[0])
    kinds = (snn.Leaky, snn.Synaptic, snn.RLeaky, snn.RSynaptic)
    return graph, x, _stepped(layers, x, kinds, lambda: utils.reset(layers))


def _fires(potential: torch.Tensor) -> torch.Tensor:
    """Spikes in the type of the network: those of snnTorch are float32, which a layer in float64 refuses."""
    return (potential > 0).to(potential.dtype)


def _leaky(*shape: int, low: float = 0.7, **options: object) -> nn.Module:
    import snntorch as snn

    beta = _uneven(low, 0.95, *shape)
    return snn.Leaky(beta, torch.ones(shape), _fires, init_hidden=True, **options)


def snntorch_dense() -> tuple:
    return _snntorch(nn.Sequential(nn.Linear(12, 24), _leaky(24), nn.Linear(24, 5), _leaky(5)), _trains(12))


def snntorch_zero() -> tuple:
    """Reset to zero: the file is none the wiser."""
    zero = {"reset_mechanism": "zero"}
    return _snntorch(nn.Sequential(nn.Linear(12, 24), _leaky(24, **zero)), _trains(12))


def snntorch_synaptic() -> tuple:
    import snntorch as snn

    def synaptic(neurons: int) -> nn.Module:
        alpha, beta = _uneven(0.3, 0.8, neurons), _uneven(0.6, 0.9, neurons)
        return snn.Synaptic(alpha, beta, _uneven(0.8, 1.5, neurons), _fires, init_hidden=True)

    return _snntorch(
        nn.Sequential(nn.Linear(12, 24), synaptic(24), nn.Linear(24, 5), synaptic(5)), _trains(12)
    )


def snntorch_convolution() -> tuple:
    def leaky(*shape: int) -> nn.Module:
        layer = _leaky(shape[0], 1, 1, low=0.5)
        layer.beta = layer.beta.expand(shape).contiguous()
        layer.threshold = torch.ones(shape)
        return layer

    layers = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), leaky(4, 8, 8), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 3, 2, stride=(2, 1), bias=False), leaky(3, 2, 3), nn.Flatten()),
        *(nn.Linear(18, 4), _leaky(4)),
    )
    with torch.no_grad():
        for place in (0, 3, 6):
            layers[place].weight.mul_(3)
    return _snntorch(layers, _trains(2, 8, 8))


def snntorch_recurrent() -> tuple:
    import snntorch as snn

    options = {"init_hidden": True, "spike_grad": _fires}
    first = snn.RLeaky(_uneven(0.7, 0.9, 10), linear_features=10, **options)
    second = snn.RSynaptic(0.5, 0.8, _uneven(-0.5, 0.5, 4), False, threshold=0.7, **options)
    return _snntorch(nn.Sequential(nn.Linear(12, 10), first, nn.Linear(10, 4), second), _trains(12))


def norse() -> tuple:
    import norse.torch as norse
    from norse.torch.functional.lif import LIFParameters
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.utils.export_nir import to_nir

    def box(neurons: int) -> nn.Module:
        return norse.LIFBoxCell(
            p=LIFBoxParameters(
                tau_mem_inv=_uneven(100, 300, neurons),
                v_leak=_uneven(0, 0.05, neurons),
                v_th=_uneven(0.1, 0.2, neurons),
                v_reset=torch.zeros(neurons),
            )
        )

    cell = norse.LIFCell(
        p=LIFParameters(
            tau_syn_inv=_uneven(150, 300, 8),
            tau_mem_inv=_uneven(100, 200, 8),
            v_leak=torch.zeros(8),
            v_th=_uneven(0.1, 0.3, 8),
            v_reset=torch.zeros(8),
        )
    )
    layers = norse.SequentialState(
        nn.Linear(12, 24), box(24), nn.Linear(24, 8), cell, nn.Linear(8, 4), box(4)
    )
    layers, x = layers.double(), _trains(12)
    state, recorded = None, {name: [] for name in "135"}
    with torch.no_grad():
        graph = to_nir(layers, x[:1, 0].squeeze(0))
        for step in range(STEPS):
            value, state = x[:, step], state or [None] * len(layers)
            for place, layer in enumerate(layers):
                if isinstance(layer, nn.Linear):
                    value = layer(value)
                    continue
                value, state[place] = layer(value, state[place])
                recorded[str(place)].append(value)
    return graph, x, {name: torch.stack(values, 1).numpy() for name, values in recorded.items()}


def sinabs() -> tuple:
    import sinabs.layers as sl
    from sinabs.activation import SingleSpike
    from sinabs.nir import to_nir
    from sinabs.utils import reset_states

    def leaky(tau: torch.Tensor) -> nn.Module:
        options = {"norm_input": False, "num_timesteps": STEPS, "spike_fn": SingleSpike}
        return sl.LIFSqueeze(tau_mem=tau, spike_threshold=torch.ones_like(tau), **options)

    # The bound of the potential is not in the file: there is none here.
    integrate = sl.IAFSqueeze(
        spike_threshold=torch.tensor(1.0), spike_fn=SingleSpike, min_v_mem=None, num_timesteps=STEPS
    )
    layers = nn.Sequential(
        *(nn.Conv2d(2, 3, 3), integrate, sl.SumPool2d(2), nn.Flatten()),
        *(nn.Linear(27, 10), leaky(_uneven(3, 20, 10)), nn.Linear(10, 4), leaky(torch.tensor(5.0))),
    ).float()
    # Weights on a grid: potentials meet the threshold exactly.
    with torch.no_grad():
        layers[0].weight.copy_((layers[0].weight * 16).round() / 16)
        layers[0].bias.copy_((layers[0].bias * 16).round() / 16)
    x, recorded = _trains(2, 8, 8), {}
    with torch.no_grad():
        graph = to_nir(layers, x[0].float())
        # nir cannot write what to_nir leaves open, nor infer it with one time constant for all neurons.
        graph.nodes["0"].input_shape, graph.nodes["3"].input_type["input"] = (8, 8), np.array([3, 3, 3])
        reset_states(layers)
        value = x.flatten(0, 1)
        for name, layer in layers.double().named_children():
            value = layer(value.double())  # spikes are float32
            if isinstance(layer, (sl.LIFSqueeze, sl.IAFSqueeze)):
                recorded[name] = value.unflatten(0, (SAMPLES, STEPS)).numpy()
    return graph, x, recorded


def paper_cnn() -> tuple:
    """N-MNIST, trained with Sinabs.  Of what the file does not say as ``sinabs`` above has it."""
    import sinabs.layers as sl
    from sinabs.activation import SingleSpike

    nodes = nir.read(OUT / "paper_cnn.nir").nodes
    layers = nn.Sequential()
    for place in range(13):
        node = nodes[str(place)]
        if isinstance(node, nir.Conv2d):
            outputs, inputs, *kernel = node.weight.shape
            layer = nn.Conv2d(inputs, outputs, kernel, tuple(node.stride), tuple(node.padding))
        elif isinstance(node, nir.Affine):
            layer = nn.Linear(*node.weight.shape[::-1])
        elif isinstance(node, nir.IF):
            options = {"spike_fn": SingleSpike, "min_v_mem": None, "num_timesteps": STEPS}
            layer = sl.IAFSqueeze(spike_threshold=torch.from_numpy(node.v_threshold).double(), **options)
        else:
            layer = nn.Flatten() if isinstance(node, nir.Flatten) else sl.SumPool2d(tuple(node.kernel_size))
        if isinstance(node, (nir.Conv2d, nir.Affine)):
            layer.weight.data, layer.bias.data = (
                torch.from_numpy(values).double() for values in (node.weight, node.bias)
            )
        layers.append(layer)
    x, recorded = _trains(2, 34, 34, rate=0.05)[:2], {}
    with torch.no_grad():
        value = x.flatten(0, 1)
        for name, layer in layers.named_children():
            value = layer(value.double())  # spikes are float32
            if isinstance(layer, sl.IAFSqueeze):
                recorded[name] = value.unflatten(0, (2, STEPS)).numpy()
    return None, x, recorded


def paper_braille_subtract() -> tuple:
    """Braille letters, trained with snnTorch: with resets in the next step, as 1.0.0 has no others here."""
    import snntorch as snn

    nodes = nir.read(OUT / "paper_braille_subtract.nir").nodes
    options = {"init_hidden": True, "spike_grad": _fires}

    def rates(neurons: nir.CubaLIF) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.from_numpy(1 - 1e-4 / tau) for tau in (neurons.tau_syn, neurons.tau_mem))

    first = snn.RSynaptic(*rates(nodes["lif1.lif"]), linear_features=40, **options)
    first.recurrent = nn.Linear(40, 40, bias=False)
    last = snn.Synaptic(*rates(nodes["lif2"]), **options)
    names = ("fc1", "lif1", "fc2", "lif2")
    places = (nn.Linear(12, 40, bias=False), first, nn.Linear(40, 7, bias=False), last)
    layers = nn.Sequential(OrderedDict(zip(names, places, strict=True))).double()
    for layer, name in ((layers.fc1, "fc1"), (first.recurrent, "lif1.w_rec"), (layers.fc2, "fc2")):
        layer.weight.data = torch.from_numpy(nodes[name].weight).double()
    x = _trains(12, rate=0.2)
    return None, x, _stepped(layers, x, (snn.RSynaptic, snn.Synaptic), lambda: None)


def spikingjelly() -> tuple:
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    layers = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), neuron.IFNode(v_threshold=1.0), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(27, 12), neuron.LIFNode(tau=3.0, v_threshold=0.2, v_reset=0.05)),
        *(nn.Linear(12, 8), neuron.LIFNode(tau=5.0, decay_input=False, v_threshold=0.5)),
        *(nn.Linear(8, 4), neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75, v_threshold=0.5)),
    ).double()
    with torch.no_grad():
        for place in (0, 4, 6, 8):
            layers[place].weight.mul_(3)
    x = _trains(2, 6, 6)
    graph = export_to_nir(layers, x[:1, 0])
    kinds = (neuron.IFNode, neuron.LIFNode, neuron.CUBALIFNode)
    recorded = _stepped(layers, x, kinds, lambda: functional.reset_net(layers))
    return graph, x, {f"_{name}": values for name, values in recorded.items()}  # as the exporter calls them


def _makers() -> Iterator[Callable[[], tuple]]:
    yield from (snntorch_dense, snntorch_zero, snntorch_synaptic, snntorch_convolution, snntorch_recurrent)
    yield from (norse, sinabs, spikingjelly, paper_cnn, paper_braille_subtract)


NETWORKS = {make.__name__: make for make in _makers()}

if __name__ == "__main__":
    main()
