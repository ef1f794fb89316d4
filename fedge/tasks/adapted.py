"""The shape of every model here: a frozen trunk between an input adapter and a head.

An adapter is what federated training may change, and small. Every adapter starts
at zero change. An input adapter corrects what a drifted sensor delivers before the
trunk sees it, and is linear in its parameters, which makes the gradient of each
single row a closed form. Clipping, noise and steps belong to `fedge.learning`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread.

    At these sizes more threads only wait for each other, take a core from the worker that
    serves beside, and add numbers up in another order.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class InputAdapter(nn.Module, ABC):
    """Changes prepared inputs, linearly in its parameters; zero parameters change nothing.

    All state is parameters: constants belong to the model.
    """

    @abstractmethod
    def forward(self, prepared: Tensor) -> Tensor:
        """Adapted inputs, of the same shape."""

    @abstractmethod
    def row_gradients(self, prepared: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        """Each row's gradient for each parameter by name, [n, *parameter shape].

        Args:
            prepared: what `forward` was given, [n, ...].
            upstream: each row's loss gradient with respect to what `forward` gave.
        """


class ConvolutionAdapter(InputAdapter):
    """A residual convolution with a bias: undoes shifts up to half its size, and contrast loss.

    Args:
        channels: of the image.
        size: of the kernel, odd.
    """

    def __init__(self, *, channels: int = 1, size: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, size, size))
        self.bias = nn.Parameter(torch.zeros(channels))
        unchanged = torch.zeros(channels, channels, size, size)
        for channel in range(channels):
            unchanged[channel, channel, size // 2, size // 2] = 1.0
        # The residual is folded into the kernel: one convolution to export, none to add.
        self.register_buffer("unchanged", unchanged, persistent=False)
        self.unchanged: Tensor
        self._padding = size // 2

    def forward(self, prepared: Tensor) -> Tensor:
        return F.conv2d(prepared, self.weight + self.unchanged, self.bias, padding=self._padding)

    def row_gradients(self, prepared: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        """See `InputAdapter.row_gradients`."""
        patches = F.unfold(prepared, self.weight.shape[-1], padding=self._padding)
        through = upstream.flatten(2)
        weight = torch.einsum("nop,nip->noi", through, patches)
        return {
            "weight": weight.reshape(len(prepared), *self.weight.shape),
            "bias": through.sum(dim=2),
        }


class AffineAdapter(InputAdapter):
    """A gain and an offset for each of the first `columns` columns of a row."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(columns))
        self.offset = nn.Parameter(torch.zeros(columns))

    def forward(self, prepared: Tensor) -> Tensor:
        numbers, rest = self._split(prepared)
        return torch.cat([numbers * (1.0 + self.gain) + self.offset, rest], dim=1)

    def row_gradients(self, prepared: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        numbers, _ = self._split(prepared)
        through, _ = self._split(upstream)
        return {"gain": numbers * through, "offset": through}

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        columns = len(self.gain)
        return rows[:, :columns], rows[:, columns:]


class AdaptedModel(nn.Module, ABC):
    """A classifier: prepare, adapt the input, trunk, head.

    Args:
        input_adapter: trained against sensor drift.
        trunk: frozen after the base training; prepared and adapted inputs to [n, k].
        head: [n, k] to logits; itself an adapter.
    """

    def __init__(self, *, input_adapter: InputAdapter, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.input_adapter, self.trunk, self.head = input_adapter, trunk, head

    @abstractmethod
    def features(self, inputs: Tensor) -> Tensor:
        """The watched features, float32 [n, features], from inputs as requests carry them.

        Torch operations that export to ONNX; NaN for missing. Adapters never touch them: a
        retrained model must not hide the drift it was made for.
        """

    def prepare(self, inputs: Tensor) -> Tensor:
        """Public fixed scaling and encoding of inputs [n, *input shape]; none by default."""
        return inputs

    def feature_map(self, inputs: Tensor) -> Tensor:
        """What the head sees, [n, k]."""
        mapped: Tensor = self.trunk(self.input_adapter(self.prepare(inputs)))
        return mapped

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [n, classes]."""
        logits: Tensor = self.head(self.feature_map(inputs))
        return logits
