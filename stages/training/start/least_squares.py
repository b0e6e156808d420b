"""Linear least squares over more rows than fit into memory at once."""

from __future__ import annotations

import torch
from torch import Tensor


class LeastSquares:
    """Sums over rows [N, D], whose last column is 1, and the values [N, M] that they are to give."""

    def __init__(self) -> None:
        self.gram = self.cross = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor, values: Tensor) -> None:
        """Take some more."""
        rows, values = rows.double(), values.double()
        self.gram, self.cross = self.gram + rows.T @ rows, self.cross + rows.T @ values

    def solve(self, soft: float) -> Tensor:
        """The weights [M, D]; soft is the ridge, as a share of the inputs' mean energy, and spares the last column."""
        gram = self.gram.clone()
        gram.diagonal()[:-1] += soft * gram.diagonal()[:-1].mean()
        return torch.linalg.solve(gram, self.cross).T.float()
