"""Adapters inside a frozen trunk: a frozen layer beside a small one that is trained.

Each starts at zero change and adds up into its frozen layer's own weights, so that a
merged model is as plain as the one before. Each gives every row's own gradient; bounding
and noising them belongs to `fedge.learning`. Own layers, because PEFT's under Opacus
train unusable models without a word (opacus #820).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedge.errors import TaskError


class TrunkAdapter(nn.Module):
    """A frozen `base` layer and what is trained beside it."""

    base: nn.Module

    def row_gradients(self, inputs: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        """Each row's gradient for each part by name, [n, *shape of the part].

        Args:
            inputs: what `forward` was given, [n, ...].
            upstream: each row's loss gradient with respect to what `forward` gave.
        """
        raise NotImplementedError

    def part(self, name: str) -> nn.Parameter:
        """The parameter behind a part's name."""
        raise NotImplementedError


class LoRALinear(TrunkAdapter):
    """A linear layer plus a product of two thin ones (Hu et al., "LoRA", 2021).

    Args:
        base: frozen.
        down: float32 [rank, inputs]; public. Trained only where a plan asks for both factors:
            noise on both multiplies, and means over gateways of two factors are not the mean of
            their products (Sun et al., "Improving LoRA in privacy-preserving federated learning",
            2024).
    """

    def __init__(self, base: nn.Linear, down: Tensor) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, len(down), bias=False)
        self.up = nn.Linear(len(down), base.out_features, bias=False)
        with torch.no_grad():
            self.down.weight.copy_(down)
            self.up.weight.zero_()
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        changed: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return changed

    def row_gradients(self, inputs: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        """See `TrunkAdapter.row_gradients`; dimensions between rows and columns are summed."""
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        through = upstream.reshape(len(upstream), -1, upstream.shape[-1])
        inner = rows @ self.down.weight.T
        return {
            "down": torch.einsum("ntr,nti->nri", through @ self.up.weight, rows),
            "up": torch.einsum("nto,ntr->nor", through, inner),
        }

    def part(self, name: str) -> nn.Parameter:
        """See `TrunkAdapter.part`."""
        layer = {"down": self.down, "up": self.up}[name]
        return cast(nn.Parameter, layer.weight)


class ResidualConvolution(TrunkAdapter):
    """A convolution plus a second one of the same geometry that starts at zero."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        if base.padding_mode != "zeros":
            raise TaskError(f"a convolution with {base.padding_mode} padding has no adapter")
        self.base = base
        self.change = nn.Conv2d(
            base.in_channels,
            base.out_channels,
            base.kernel_size,  # type: ignore[arg-type]
            stride=base.stride,  # type: ignore[arg-type]
            padding=base.padding,  # type: ignore[arg-type]
            dilation=base.dilation,  # type: ignore[arg-type]
            groups=base.groups,
            bias=base.bias is not None,
        )
        with torch.no_grad():
            for parameter in self.change.parameters():
                parameter.zero_()
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        changed: Tensor = self.base(inputs) + self.change(inputs)
        return changed

    def row_gradients(self, inputs: Tensor, upstream: Tensor) -> dict[str, Tensor]:
        """See `TrunkAdapter.row_gradients`."""
        weight = (
            self._unfolded(inputs, upstream) if self._plain else self._one_by_one(inputs, upstream)
        )
        return {"weight": weight, "bias": upstream.flatten(2).sum(dim=2)}

    def part(self, name: str) -> nn.Parameter:
        """See `TrunkAdapter.part`."""
        parameter: nn.Parameter = getattr(self.change, name)
        return parameter

    @property
    def _plain(self) -> bool:
        return self.change.groups == 1 and not isinstance(self.change.padding, str)

    def _unfolded(self, inputs: Tensor, upstream: Tensor) -> Tensor:
        layer = self.change
        patches = F.unfold(
            inputs,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=layer.padding,  # type: ignore[arg-type]
            stride=layer.stride,
        )
        weight = torch.einsum("nop,nip->noi", upstream.flatten(2), patches)
        return weight.reshape(len(inputs), *layer.weight.shape)

    def _one_by_one(self, inputs: Tensor, upstream: Tensor) -> Tensor:
        """Without a closed form: every row differentiated by itself, in one vectorised call."""
        layer = self.change

        def one(row: Tensor, through: Tensor) -> Tensor:
            """One row's gradient, of the weight's shape: its upstream gradient pulled back."""

            def answer(weight: Tensor) -> Tensor:
                """The row's output with another weight; a bias would not change the gradient."""
                return F.conv2d(
                    row[None],
                    weight,
                    None,
                    layer.stride,
                    layer.padding,
                    layer.dilation,
                    layer.groups,
                )[0]

            pull = torch.func.vjp(answer, layer.weight.detach())[1]
            gradient: Tensor = pull(through)[0]
            return gradient

        gradients: Tensor = torch.func.vmap(one)(inputs, upstream)
        return gradients


def install(trunk: nn.Module, layer: str, adapter: TrunkAdapter) -> None:
    """Put `adapter` in the place of the trunk's `layer` (a dotted name within the trunk)."""
    parent, _, name = layer.rpartition(".")
    setattr(trunk.get_submodule(parent), name, adapter)
