"""Small networks with attention, as people write them in PyTorch, and what each has to become.

Sequences have ``LENGTH`` positions of ``WIDTH`` features and, unless a network has fewer for keys and
values, ``HEADS`` heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

LENGTH, WIDTH, HEADS, HIDDEN = 6, 16, 4, 10
FEATURES = WIDTH // HEADS
LOWER = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
OF_LOWER = torch.zeros(LENGTH, LENGTH).masked_fill(~LOWER, -torch.inf)


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` of a sequence over itself."""

    def __init__(
        self, mask: torch.Tensor | None = None, is_causal: bool = False, returns_weights: bool = False
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.is_causal, self.returns_weights = is_causal, returns_weights
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        options = {"need_weights": self.returns_weights, "attn_mask": self.mask, "is_causal": self.is_causal}
        return self.attention(x, x, x, **options)[0]


class CrossAttention(nn.Module):
    """A sequence over another one, which is longer and has fewer features."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=5, vdim=5)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.attention(x, memory, memory, need_weights=False)[0]


class Rotation(nn.Module):
    """Rotary position embeddings: halves of a head's features, or neighbours, are rotated."""

    def __init__(self, of_neighbours: bool) -> None:
        super().__init__()
        angles = torch.arange(LENGTH)[:, None] * 100.0 ** (-torch.arange(0, FEATURES, 2) / FEATURES)
        self.of_neighbours = of_neighbours
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.of_neighbours:
            a, b = x[..., 0::2], x[..., 1::2]
            pairs = a * self.cosines - b * self.sines, a * self.sines + b * self.cosines
            return torch.stack(pairs, -1).flatten(-2)
        a, b = x.chunk(2, -1)
        cosines, sines = (torch.cat([each, each], -1) for each in (self.cosines, self.sines))
        return x * cosines + torch.cat([-b, a], -1) * sines


class Block(nn.Module):
    """A layer of a transformer, norms first.

    Args:
        groups: heads of keys and values.
        norm: LayerNorm or RMSNorm.
        rotation: of queries and keys.
        is_gated: whether a gate multiplies what the hidden layer computes.
        has_norms_of_heads: whether queries and keys are normalised.
        mask, is_causal, scale: of ``scaled_dot_product_attention``.
        softcap: causal attention is written out with this cap; 0: it is not.
    """

    def __init__(
        self,
        groups: int = HEADS,
        norm: type[nn.Module] = nn.LayerNorm,
        rotation: nn.Module | None = None,
        is_gated: bool = False,
        has_norms_of_heads: bool = False,
        mask: torch.Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        softcap: float = 0.0,
    ) -> None:
        super().__init__()
        self.groups, self.is_causal, self.scale, self.softcap = groups, is_causal, scale, softcap
        self.norm, self.norm_of_hidden = norm(WIDTH), norm(WIDTH)
        self.queries = nn.Linear(WIDTH, WIDTH)
        self.keys = nn.Linear(WIDTH, groups * FEATURES, bias=False)
        self.values, self.joined = nn.Linear(WIDTH, groups * FEATURES), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.gate = nn.Linear(WIDTH, HIDDEN) if is_gated else None
        self.rotation = rotation or nn.Identity()
        norms = [nn.RMSNorm(FEATURES) if has_norms_of_heads else nn.Identity() for _ in range(2)]
        self.norm_of_queries, self.norm_of_keys = norms
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        q, k, v = (
            layer(normed).view(x.shape[0], LENGTH, -1, FEATURES).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        q, k = self.rotation(self.norm_of_queries(q)), self.rotation(self.norm_of_keys(k))
        y = self.written_out(q, k, v) if self.softcap else self.operator(q, k, v)
        x = x + self.joined(y.transpose(1, 2).reshape(x.shape[0], LENGTH, WIDTH))
        normed = self.norm_of_hidden(x)
        hidden = functional.gelu(self.up(normed))
        if self.gate is not None:
            hidden = functional.silu(self.gate(normed)) * self.up(normed)
        return x + self.down(hidden)

    def operator(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            *(q, k, v),
            attn_mask=self.mask,
            is_causal=self.is_causal,
            scale=self.scale,
            enable_gqa=self.groups != HEADS,
        )

    def written_out(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(FEATURES)
        scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores.masked_fill(~LOWER, -torch.inf).softmax(-1) @ v


class Padded(nn.Module):
    """Attention to the positions that an input marks, by a number that is added to the scores or by truth."""

    def __init__(self, by_truth: bool) -> None:
        super().__init__()
        self.by_truth = by_truth
        self.inner, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inner(x).view(x.shape[0], LENGTH, 3, HEADS, FEATURES).permute(2, 0, 3, 1, 4)
        seen = mask[:, None, None, :]
        if self.by_truth:
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen > 0)
        else:
            y = (q @ k.transpose(-1, -2) * FEATURES**-0.5 + (1 - seen) * -1e9).softmax(-1) @ v
        return x + self.joined(y.transpose(1, 2).reshape(x.shape[0], LENGTH, WIDTH))


class Equations(nn.Module):
    """Attention in sums that are written as equations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(3, HEADS, WIDTH, FEATURES) / 4)
        self.outer = nn.Parameter(torch.randn(HEADS, FEATURES, WIDTH) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (torch.einsum("bsd,hde->bshe", x, weights) for weights in self.inner)
        weights = torch.einsum("bshe,bthe->bhst", q, k).mul(0.5).softmax(-1)
        return torch.einsum("bshe,hed->bsd", torch.einsum("bhst,bthe->bshe", weights, v), self.outer)


class Images(nn.Module):
    """A vision transformer: patches, a token of the class, two layers, and the class from the token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layers = nn.TransformerEncoder(layer(norm_first=True), 2, enable_nested_tensor=False)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.last(self.layers(tokens)[:, 0])


class Classes(nn.Module):
    """Classes from the first position of a sequence, or from the mean of all."""

    def __init__(self, of_first: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.block, self.last, self.of_first = Block(is_gated=True), nn.Linear(WIDTH, 3), of_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(x + self.positions)
        return self.last(y[:, 0] if self.of_first else y.mean(1))


def layer(**options: object) -> nn.Module:
    """A layer of PyTorch's own encoder."""
    return nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True, **options)


@dataclass(frozen=True)
class Case:
    """A network, the shapes of its inputs, and what its attentions have to be.

    Attributes:
        module: makes it.
        shapes: of a sample of each input.
        expected: attributes of each attention, -1 and 0 where nothing is given.
        attentions: how many.
        opsets: for the newer exporter; from 23 on, there is an operator for attention.
        without_script: why the older exporter does not write it.
        marks: whether the last input marks positions with 1, others with 0.
    """

    module: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = ((LENGTH, WIDTH),)
    expected: dict[str, float] = field(default_factory=dict)
    attentions: int = 1
    opsets: tuple[int, ...] = (20,)
    without_script: str = ""
    marks: bool = False


_FUSED, _NEW = "it fuses the layer to one operator of PyTorch", "it has no such operator"
CAUSAL = {"after": 0}
_BOTH, _MARKED = ((LENGTH, WIDTH), (LENGTH + 2, WIDTH)), ((LENGTH, WIDTH), (LENGTH,))
CASES = {
    "multihead": Case(SelfAttention, opsets=(20, 24)),
    "multihead weights": Case(lambda: SelfAttention(returns_weights=True)),
    "multihead causal": Case(lambda: SelfAttention(OF_LOWER, is_causal=True), expected=CAUSAL),
    "multihead truth": Case(lambda: SelfAttention(~LOWER), expected=CAUSAL, opsets=(24,)),
    "encoder": Case(layer, without_script=_FUSED, opsets=(24,)),
    "encoder norms first": Case(
        lambda: layer(norm_first=True, activation="gelu"), without_script="it fuses the norms"
    ),
    "encoder of two layers": Case(
        lambda: nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False), attentions=2
    ),
    "decoder": Case(
        lambda: nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True),
        _BOTH,
        attentions=2,
        without_script="it does not trace it",
        opsets=(24,),
    ),
    "block": Case(Block),
    "causal": Case(lambda: Block(is_causal=True), expected=CAUSAL, opsets=(24,)),
    "grouped": Case(
        lambda: Block(groups=2, is_causal=True),
        expected={"groups": 2, **CAUSAL},
        without_script=_NEW,
        opsets=(20, 24),
    ),
    "one group": Case(lambda: Block(groups=1), expected={"groups": 1}, without_script=_NEW, opsets=(24,)),
    "rotated": Case(
        lambda: Block(rotation=Rotation(False), norm=nn.RMSNorm, is_gated=True, is_causal=True),
        expected=CAUSAL,
        without_script=_NEW,
    ),
    "rotated neighbours": Case(
        lambda: Block(rotation=Rotation(True), norm=nn.RMSNorm, groups=2),
        expected={"groups": 2},
        without_script=_NEW,
    ),
    "norms of heads": Case(
        lambda: Block(2, nn.RMSNorm, Rotation(False), is_gated=True, has_norms_of_heads=True, is_causal=True),
        expected={"groups": 2, **CAUSAL},
        without_script=_NEW,
        opsets=(24,),
    ),
    "window": Case(
        lambda: Block(mask=LOWER & ~LOWER.tril(-3)), expected={"before": 2, **CAUSAL}, opsets=(24,)
    ),
    "numbers as a mask": Case(lambda: Block(mask=OF_LOWER), expected=CAUSAL),
    "bias": Case(lambda: Block(mask=torch.randn(HEADS, LENGTH, LENGTH)), opsets=(24,)),
    "soft cap": Case(lambda: Block(softcap=0.5), expected={"softcap": 0.5, **CAUSAL}),
    "scale": Case(lambda: Block(scale=0.1), expected={"scale": 0.1}, opsets=(24,)),
    "padded": Case(lambda: Padded(by_truth=False), _MARKED, marks=True),
    "padded by truth": Case(lambda: Padded(by_truth=True), _MARKED, marks=True, opsets=(20, 24)),
    "images": Case(Images, ((3, 8, 8),), attentions=2),
    "equations": Case(Equations),
    "class of the first": Case(lambda: Classes(of_first=True)),
    "class of the mean": Case(lambda: Classes(of_first=False)),
    "cross": Case(CrossAttention, ((LENGTH, WIDTH), (LENGTH + 1, 5)), opsets=(24,)),
}
