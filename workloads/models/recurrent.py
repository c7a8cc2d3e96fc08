"""Token mixers with a constant state per sequence: linear attention, state spaces and short convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workloads.models.mixer import Count, Phase


class _Stateful:
    """What mixers without a KV cache have in common."""

    __slots__ = ()

    @property
    def window(self) -> None:
        """There is no cache that a window could limit."""
        return

    def kv_bytes(self, element: float) -> float:  # noqa: ARG002
        """Nothing [bytes]."""
        return 0.0

    def kv_share(self, tp: int) -> float:  # noqa: ARG002
        """There is nothing to share [1]."""
        return 1.0

    def problems(self) -> Iterator[str]:
        """Any positive sizes do."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet(_Stateful):
    """Linear attention with a gated delta rule (Qwen3-Next); state of key_head_dim x value_head_dim per value head.

    With ``learned_decay`` false and ``conv_kernel`` 0 it is lightning attention (MiniMax-01): the same output gate and
    state, a decay fixed per head, and no delta rule.
    """

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    learned_decay: bool = True

    def parameters(self, hidden: int) -> Count:
        """Count projections, convolution, gates and the output norm."""
        keys, values = self.num_key_heads * self.key_head_dim, self.num_value_heads * self.value_head_dim
        gates = 2 * self.num_value_heads * self.learned_decay
        matrices = hidden * (2 * keys + 2 * values + gates) + values * hidden
        convolution = self.conv_kernel * (2 * keys + values)
        # The output norm is shared by the heads where the decay is learned, and spans them where it is not.
        vectors = self.value_head_dim + gates if self.learned_decay else values
        return Count(matrices + convolution, vectors)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """Read by key (delta rule only), rank-one write, read by query: 2 FLOPs per state element each [FLOP]."""
        passes = 3 if self.learned_decay else 2
        return 2.0 * passes * self.num_value_heads * self.key_head_dim * self.value_head_dim

    def state_bytes(self, state: float, activation: float) -> float:
        """The state of every value head, and the last inputs of the convolution [bytes]."""
        heads, keys, values = self.num_value_heads, self.key_head_dim, self.value_head_dim
        channels = 2 * self.num_key_heads * keys + heads * values
        return heads * keys * values * state + channels * max(self.conv_kernel - 1, 0) * activation

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where value heads do not divide over the devices."""
        if self.num_value_heads % tp:
            yield f"tp={tp} must divide the {self.num_value_heads} linear-attention heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2(_Stateful):
    """State-space mixer; inner width is num_heads x head_dim."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int

    @property
    def inner(self) -> int:
        """Inner width [elements]."""
        return self.num_heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: inner width, and input and output maps of each group [1]."""
        return self.inner + 2 * self.num_groups * self.state_size

    def parameters(self, hidden: int) -> Count:
        """Count projections, convolution, decays and the output norm."""
        matrices = hidden * (self.inner + self.channels + self.num_heads) + self.inner * hidden
        return Count(matrices + self.conv_kernel * self.channels, self.channels + 3 * self.num_heads + self.inner)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """Write and read the state: 2 FLOPs per element each [FLOP]."""
        return 4.0 * self.num_heads * self.head_dim * self.state_size

    def state_bytes(self, state: float, activation: float) -> float:
        """The state of every head, and the last inputs of the convolution [bytes]."""
        return self.inner * self.state_size * state + self.channels * max(self.conv_kernel - 1, 0) * activation

    def problems(self) -> Iterator[str]:
        """Say where heads do not share evenly."""
        if self.num_groups > 0 and self.num_heads % self.num_groups:
            yield f"attention.num_heads = {self.num_heads} is not a multiple of num_groups = {self.num_groups}"

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} Mamba heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba1(_Stateful):
    """State-space mixer of the first kind (Jamba): a state per channel, norms of its inner maps."""

    inner: int
    state_size: int
    dt_rank: int
    conv_kernel: int
    inner_norms: bool = True

    def parameters(self, hidden: int) -> Count:
        """Count projections, convolution, decays and inner norms."""
        maps = self.dt_rank + 2 * self.state_size
        matrices = 3 * hidden * self.inner + self.inner * (maps + self.dt_rank + self.conv_kernel)
        return Count(matrices, self.inner * (self.state_size + 3) + maps * self.inner_norms)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """Write and read the state: 2 FLOPs per element each [FLOP]."""
        return 4.0 * self.inner * self.state_size

    def state_bytes(self, state: float, activation: float) -> float:
        """The state of every channel, and the last inputs of the convolution [bytes]."""
        return self.inner * self.state_size * state + self.inner * max(self.conv_kernel - 1, 0) * activation

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where channels do not divide over the devices."""
        if self.inner % tp:
            yield f"tp={tp} must divide the {self.inner} Mamba channels"


@dataclass(frozen=True, slots=True, kw_only=True)
class KimiDeltaAttention(_Stateful):
    """Linear attention with a delta rule and a decay per channel (Kimi-Linear).

    Decay and output gate go through ``gate_rank`` elements, or straight where it is 0.
    """

    num_heads: int
    head_dim: int
    conv_kernel: int
    gate_rank: int = 0

    @property
    def inner(self) -> int:
        """Width of queries, keys and values alike [elements]."""
        return self.num_heads * self.head_dim

    def parameters(self, hidden: int) -> Count:
        """Count projections, convolution, gates and the output norm."""
        gate = self.gate_rank * (hidden + self.inner) if self.gate_rank else hidden * self.inner
        matrices = 4 * hidden * self.inner + hidden * self.num_heads + 2 * gate + 3 * self.inner * self.conv_kernel
        return Count(matrices, self.inner + self.num_heads + self.head_dim)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """Read by key, rank-one write, read by query: 2 FLOPs per state element each [FLOP]."""
        return 6.0 * self.num_heads * self.head_dim**2

    def state_bytes(self, state: float, activation: float) -> float:
        """The state of every head, and the last inputs of the convolution [bytes]."""
        return self.inner * self.head_dim * state + 3 * self.inner * max(self.conv_kernel - 1, 0) * activation

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} linear-attention heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvolution(_Stateful):
    """A gated convolution over the last tokens (LFM2): three projections in, one out."""

    channels: int
    conv_kernel: int

    def parameters(self, hidden: int) -> Count:
        """Count projections and convolution."""
        return Count(4 * hidden * self.channels + self.channels * self.conv_kernel)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """The taps of every channel [FLOP]."""
        return 2.0 * self.channels * self.conv_kernel

    def state_bytes(self, state: float, activation: float) -> float:  # noqa: ARG002
        """The last inputs of the convolution [bytes]."""
        return self.channels * max(self.conv_kernel - 1, 0) * activation

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where channels do not divide over the devices."""
        if self.channels % tp:
            yield f"tp={tp} must divide the {self.channels} channels"
