"""Modules of snnTorch: the spikes of the modules themselves, and what is refused."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("snntorch")

import snntorch as snn  # noqa: E402
import torch  # noqa: E402
from snntorch import utils  # noqa: E402
from torch import nn  # noqa: E402

import repurpose_hpc as rp  # noqa: E402
from repurpose_hpc.errors import Note  # noqa: E402
from repurpose_hpc.fields import FieldError  # noqa: E402
from repurpose_hpc.model.forward import forward  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
STEPS, SAMPLES = 12, 16


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def _leaky(neurons=None, **options):
    beta = 0.8 if neurons is None else 0.6 + 0.3 * torch.rand(neurons)
    return snn.Leaky(beta, init_hidden=True, **options)


def _synaptic(alpha, beta, **options):
    return snn.Synaptic(alpha, beta, init_hidden=True, **options)


def _zero(**options):
    return {"reset_mechanism": "zero", "reset_delay": False, **options}


def _dense(*layers):
    first, *rest = layers
    return nn.Sequential(nn.Linear(12, 24), first, nn.Dropout(0.5), nn.Linear(24, 5), *rest or (_leaky(5),))


def _convolutions():
    norm = nn.BatchNorm2d(6)
    norm.running_mean.uniform_(-0.1, 0.1)
    norm.running_var.uniform_(0.5, 1.5)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding="same"), norm, _leaky(threshold=0.4), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, groups=2), _leaky(threshold=0.2), nn.AvgPool2d(2, padding=1), nn.Flatten()),
        *(nn.Linear(32, 4), _leaky(threshold=0.1)),
    )


MODULES = {
    "subtract": lambda: _dense(_leaky(24), _leaky(5, threshold=0.4, output=True)),
    "zero": lambda: _dense(_leaky(reset_mechanism="zero"), _leaky(reset_mechanism="none")),
    "zero at once": lambda: _dense(_leaky(24, **_zero()), _synaptic(0.5, 0.8, **_zero())),
    "synaptic": lambda: _dense(_synaptic(0.5, torch.rand(24)), _synaptic(torch.rand(5), 1.2, threshold=0.7)),
    "lapicque": lambda: _dense(
        snn.Lapicque(R=5.0, C=2.0, threshold=0.2, reset_mechanism="subtract", init_hidden=True)
    ),
    "graded": lambda: _dense(_leaky(graded_spikes_factor=0.5)),
    "recurrent": lambda: _dense(
        snn.RLeaky(0.8, linear_features=24, init_hidden=True),
        snn.RSynaptic(0.5, 0.8, V=0.3, all_to_all=False, threshold=0.3, init_hidden=True),
    ),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(12, 9), _leaky()), nn.Identity(), nn.Linear(9, 4), _leaky()
    ),
    "convolutions": _convolutions,
    "positions": lambda: nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding="same"), _leaky((6, 8, 8), threshold=0.2 + 0.4 * torch.rand(6, 8, 8))),
        *(
            nn.Conv2d(6, 3, 3),
            snn.RLeaky(torch.rand(3, 6, 6), conv2d_channels=3, kernel_size=3, init_hidden=True),
        ),
    ),
    "along one axis": lambda: nn.Sequential(nn.Conv1d(2, 3, 3, stride=2), _leaky(3, threshold=0.5).float()),
    "recurrent maps": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), snn.RLeaky(0.8, conv2d_channels=3, kernel_size=3, threshold=0.5, init_hidden=True)
    ),
}
SHAPES = {
    "convolutions": (2, 8, 8),
    "positions": (2, 8, 8),
    "recurrent maps": (2, 6, 6),
    "along one axis": (2, 9),
}


def _expected(module, x):
    """What comes out of the last layer, (samples, steps, ...), in float64."""
    for layer in module.modules():
        layer.register_forward_pre_hook(lambda layer, inputs: tuple(each.double() for each in inputs))
    module = module.double().eval()
    utils.reset(module)
    with torch.no_grad():
        steps = [module(torch.from_numpy(x[:, step])) for step in range(x.shape[1])]
    return np.stack([(each[0] if isinstance(each, tuple) else each).numpy() for each in steps], axis=1)


@pytest.mark.parametrize("name", MODULES)
def test_spikes_are_those_of_the_module(name):
    module, shape = MODULES[name](), SHAPES.get(name, (12,))
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(3)  # so that enough neurons fire
    if name == "along one axis":
        module[1].beta = module[1].beta[:, None]
    example = torch.zeros(1, *shape) if len(shape) > 1 else None
    network = rp.from_snntorch(module, STEPS, example, read_out="trains")
    assert network.input_shape == (STEPS, *shape)
    x = (np.random.default_rng(1).random((SAMPLES, STEPS, *shape)) < 0.4).astype(float)
    expected = _expected(module, x)
    assert 0.005 < (expected > 0).mean() < 0.995
    np.testing.assert_array_equal(forward(network, x).reshape(expected.shape), expected)


class _Loop(nn.Module):
    """A module that goes through all steps itself, with an image for all of them."""

    def __init__(self, halves=False, repeats=False):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 20), snn.Leaky(0.9)
        self.fc2, self.lif2 = nn.Linear(20, 4), snn.Leaky(0.8)
        self.halves, self.repeats = halves, repeats

    def forward(self, x):
        first, second, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(STEPS):
            spikes, first = self.lif1(self.fc1(x.flatten(1)), first)
            if self.halves:
                spikes = spikes / 2
            if self.repeats:
                self.fc1(x.flatten(1))
            spikes, second = self.lif2(self.fc2(spikes), second)
            out.append(spikes)
        return torch.stack(out), second


def test_a_module_may_go_through_the_steps_itself():
    module, x = _Loop(), torch.rand(SAMPLES, 3, 4)
    network = rp.from_snntorch(module, STEPS, x[:1])
    for layer in module.modules():
        layer.register_forward_pre_hook(lambda layer, inputs: tuple(each.double() for each in inputs))
    with torch.no_grad():
        expected = module.double()(x.double())[0].sum(axis=0).numpy()
    same = np.repeat(x.double().numpy().reshape(SAMPLES, 1, -1), STEPS, axis=1)
    np.testing.assert_array_equal(forward(network, same), expected)


def test_the_module_is_left_as_it_is():
    module = _dense(_leaky(24)).train()
    spikes = module(torch.rand(3, 12))
    spikes.sum().backward()  # its states are part of a graph now
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state, gradient = module[1].mem, module[0].weight.grad
    rp.from_snntorch(module, STEPS)
    assert module.training and module[1].mem is state and module[0].weight.grad is gradient
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_flat_images_are_flat():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), _leaky())
    assert rp.from_snntorch(module, 3, torch.zeros(1, 3, 2, 2)).input_shape == (3, 12)
    assert rp.from_snntorch(module, 1).input_shape == (12,)


def _strong():
    return nn.Sequential(nn.Linear(12, 24), _leaky(threshold=0.1, reset_delay=False))


REFUSED = {
    "another layer": (lambda: _dense(nn.ReLU()), r"1 \(ReLU\): expected one of AvgPool2d"),
    "inhibition": (lambda: _dense(_leaky(inhibition=True)), r"1 \(Leaky\): .*inhibition=True"),
    "quantised": (lambda: _dense(_leaky(state_quant=torch.round)), r"1 \(Leaky\): .*state_quant"),
    "dropped input": (
        lambda: _dense(_synaptic(0.5, 0.8, reset_mechanism="zero")),
        r'1 \(Synaptic\): expected another reset than "zero".*drops the input',
    ),
    "another neuron": (
        lambda: _dense(snn.Alpha(0.9, 0.8, init_hidden=True)),
        r"1 \(Alpha\): expected one of",
    ),
    "no neurons": (lambda: nn.Sequential(nn.Linear(3, 2)), "neurons, found Linear; from_torch"),
    "strong input": (_strong, r"1 \(Leaky\): expected the spikes of snnTorch .* reset_delay=False is why"),
    "no example": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), _leaky()), r"the first layer, 0 \(Conv2d\)"),
    "something in between": (lambda: _Loop(halves=True), "expected fc2 to read what lif1 makes"),
    "a layer twice": (
        lambda: _Loop(repeats=True),
        "to call each layer once, in one order, found fc1, lif1, fc1",
    ),
}


@pytest.mark.filterwarnings("ignore:Inhibition")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_named(what):
    make, message = REFUSED[what]
    with pytest.raises(rp.UserError, match=message):
        rp.from_snntorch(make(), STEPS)


def test_other_arguments_are_refused():
    with pytest.raises(rp.UserError, match="one step or 5 steps in a call, found 12; give steps=12"):
        rp.from_snntorch(_Loop(), 5)
    with pytest.raises(rp.UserError, match="can be called with an example"):
        rp.from_snntorch(_dense(_leaky()), STEPS, torch.zeros(1, 7))
    with pytest.raises(FieldError, match="steps: expected an integer"):
        rp.from_snntorch(_dense(_leaky()), 0)
    with pytest.raises(FieldError, match="read_out: expected one of count"):
        rp.from_snntorch(_dense(_leaky()), STEPS, read_out="first")
    with pytest.raises(rp.UserError, match="expected a torch.nn.Module and"):
        rp.from_snntorch(_dense(_leaky()), STEPS, np.zeros((1, 12)))


def test_a_reset_at_once_is_noted():
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        network = rp.from_snntorch(_strong(), STEPS, check=False)
    assert any(
        issubclass(each.category, Note) and "twice the threshold" in str(each.message) for each in notes
    )
    assert network.outputs == 24
