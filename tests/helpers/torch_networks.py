"""Small networks of the kinds that people have, as PyTorch modules."""

import torch
from torch import nn
from torch.nn import functional


def vgg() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(8 * 4, 10), nn.GELU(), nn.Dropout(), nn.Linear(10, 4), nn.LogSoftmax(1)),
    )


class Residual(nn.Module):
    """Two blocks of a ResNet, the second with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.block(3, 6, 1)
        self.short = nn.Conv2d(3, 6, 1)
        self.second = self.block(6, 8, 2)
        self.down = nn.Sequential(nn.Conv2d(6, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
        self.last = nn.Linear(8, 4)

    @staticmethod
    def block(source: int, target: int, stride: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(source, target, 3, stride, 1, bias=False), nn.BatchNorm2d(target), nn.SiLU()),
            *(nn.Conv2d(target, target, 3, padding=1, bias=False), nn.BatchNorm2d(target)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x) + self.short(x))
        x = functional.relu(self.second(x) + self.down(x))
        return self.last(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeExcitation(nn.Module):
    """A gate computed from what it scales, and an inverted bottleneck with depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), nn.BatchNorm2d(12))
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project = nn.Conv2d(12, 5, 1)
        self.slopes = nn.PReLU(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.elu(self.depth(self.expand(x)))
        gate = functional.hardsigmoid(
            self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        )
        return self.slopes(self.project(x * gate)).amax((2, 3))


class Inception(nn.Module):
    """Branches of several kernels, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.pooled, self.last = nn.Conv2d(3, 2, 1), nn.Conv2d(11, 4, 3, dilation=2, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        x = functional.leaky_relu(torch.cat([self.one(x), self.three(x), pooled], 1), 0.2)
        return self.last(x)


class Shuffle(nn.Module):
    """Grouped convolutions, a shuffle of the channels, and one half that passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, groups=3)
        self.right, self.last = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat([left, torch.relu(self.right(right))], 1)
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return self.last(x)


class UNet(nn.Module):
    """Down and up again, once with a transposed convolution and once with a nearest resize."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.merge, self.last = nn.Conv2d(8, 5, 3, padding=1, padding_mode="reflect"), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = torch.tanh(self.down(x))
        merged = self.merge(torch.cat([half, self.up(functional.softplus(self.deep(half)))], 1))
        return self.last(torch.cat([x, functional.interpolate(merged, scale_factor=2, mode="nearest")], 1))


class Normalised(nn.Module):
    """A multilayer perceptron with LayerNorm and a residual, and GroupNorm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.groups = nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4)
        self.norm, self.grow, self.shrink = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)
        self.narrow = nn.Linear(4 * 25, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(self.groups(self.stem(x)).flatten(1))
        return x + self.shrink(functional.gelu(self.grow(self.norm(x)), approximate="tanh"))


class Lines(nn.Module):
    """Convolutions over one axis, a gated linear unit and a channel-wise attention over it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3 * 12, 8, 5, 2), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.glu(self.first(x.flatten(1, 2)), 1)
        return self.last(functional.mish(x).mean(-1))


NETWORKS = {
    "vgg": vgg,
    "residual": Residual,
    "squeeze_excitation": SqueezeExcitation,
    "inception": Inception,
    "shuffle": Shuffle,
    "unet": UNet,
    "normalised": Normalised,
    "lines": Lines,
}


def network(name: str) -> nn.Module:
    """One of ``NETWORKS``, in evaluation mode, with statistics of normalisation that do something."""
    torch.manual_seed(0)
    module = NETWORKS[name]()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_var, 0.5, 2)
            nn.init.normal_(each.running_mean)
            nn.init.normal_(each.bias)
    return module.eval()
