"""The torch side of `digits`: the model, its watched features, its base training.

Trained on clean captures of public glyphs and nothing else: what a drifted camera
does to it is for adapters to mend.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedge.tasks.adapted import AdaptedModel, ConvolutionAdapter, one_thread
from fedge.tasks.camera import capture
from fedge.tasks.code import Weights
from fedge.tasks.digits import SIZE, Glyphs

_EPOCHS, _BATCH, _LEARNING_RATE = 80, 50, 2e-3
_DARK = 1e-3
"""Light below which a picture has no centroid of its own, and shows its middle."""


class DigitsModel(AdaptedModel):
    """Three small convolutions (16, 32, 32), a hidden layer, 64 features, ten digits."""

    def __init__(self) -> None:
        trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, 64),
            nn.ReLU(),
        )
        super().__init__(
            input_adapter=ConvolutionAdapter(size=5), trunk=trunk, head=nn.Linear(64, 10)
        )
        sums, differences = _pixel_sums(), _pixel_differences()
        self.register_buffer("sums", torch.from_numpy(sums), persistent=False)
        self.register_buffer("differences", torch.from_numpy(differences), persistent=False)
        self.sums: Tensor
        self.differences: Tensor
        self.eval()

    def features(self, inputs: Tensor) -> Tensor:
        """Mean, spread, edge energy, centroids (x, y) in pixels, maximum: [n, 6].

        As few operations as possible: this runs for every served row, and at this size an
        operation costs more than its arithmetic.
        """
        pixels = inputs.flatten(1)
        light, across, down = torch.split(pixels @ self.sums, 1, dim=1)
        mean = light / SIZE**2
        changes = pixels @ self.differences
        edges = (changes * changes).sum(dim=1, keepdim=True) / changes.shape[1]
        centred = pixels - mean
        spread = (centred * centred).mean(dim=1, keepdim=True).sqrt()
        present = light.clamp(min=0.0) + _DARK
        middle = _DARK * (SIZE - 1) / 2
        columns = (across + middle) / present
        rows = (down + middle) / present
        brightest = pixels.amax(dim=1, keepdim=True)
        return torch.cat([mean, spread, edges, columns, rows, brightest], dim=1)


def _pixel_sums() -> npt.NDArray[np.float32]:
    """float32 [64, 3]: a picture's light, and its light times column and row."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return np.stack([np.ones(SIZE**2), x.ravel(), y.ravel()], axis=1).astype(np.float32)


def _pixel_differences() -> npt.NDArray[np.float32]:
    """float32 [64, 112]: every pixel against its right and its lower neighbour."""
    number = np.arange(SIZE**2).reshape(SIZE, SIZE)
    pairs = [*zip(number[:, :-1].ravel(), number[:, 1:].ravel(), strict=True)]
    pairs += zip(number[:-1].ravel(), number[1:].ravel(), strict=True)
    matrix = np.zeros((SIZE**2, len(pairs)), dtype=np.float32)
    for column, (here, there) in enumerate(pairs):
        matrix[here, column], matrix[there, column] = -1.0, 1.0
    return matrix


def train_base(public: Glyphs, seed: int, *, epochs: int = _EPOCHS) -> Weights:
    """Train trunk and head; every epoch sees fresh clean captures."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsModel()
        rng = np.random.default_rng([seed, 1])
        parameters = [*model.trunk.parameters(), *model.head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
        labels = torch.from_numpy(public.labels)
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * _LEARNING_RATE * (1 + math.cos(math.pi * epoch / epochs))
            captures = torch.from_numpy(capture(public.images, rng)[:, None])
            order = torch.from_numpy(rng.permutation(len(labels)))
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                optimizer.zero_grad()
                F.cross_entropy(model(captures[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
