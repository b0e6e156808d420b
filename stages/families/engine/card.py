"""What stands in for networks that a stage does not hold: a card for a VAE, a hull for a denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stages.core.latents.form import Floats


class Stop(Exception):
    """Ends a run of a pipeline that is made to look only: its denoiser was asked."""


class Hull:
    """Stands in for a denoiser in a run that looks: its config, and nothing else. Whatever more the pipeline asks of it
    ends the run."""

    def __init__(self, config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        self.config = SimpleNamespace(**config)
        self.dtype, self.device = dtype, device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Stop

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise Stop


def weightless(kind: Any, config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A network of a class, of no weights, which ends the run when it is asked: where a pipeline looks at the class."""
    with torch.device("meta"):
        made = kind.from_config(config)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise Stop

    told = {"forward": forward, "dtype": property(lambda self: dtype), "device": property(lambda self: device)}
    made.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **told})
    return made


class Card(torch.nn.Module):  # type: ignore[misc]
    """Stands in for a VAE where it is not held: its config, dtype and device; `encode` answers with what the VAE
    answered elsewhere."""

    def __init__(self, kind: Any, config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.dtype, self.device = dtype, device
        for name in ("temperal_downsample", "spatial_compression_ratio", "temporal_compression_ratio"):
            if name in config:
                setattr(self, name, config[name])
        self._queued: list[torch.Tensor] = []

    @contextmanager
    def answering(self, answers: list[Floats]) -> Iterator[None]:
        """Within it, successive calls of `encode` answer with these. Raises RuntimeError where not all were asked for:
        a condition was passed over."""
        self._queued = [torch.from_numpy(np.ascontiguousarray(a)) for a in answers]
        try:
            yield
            if self._queued:
                raise RuntimeError(f"{len(self._queued)} of {len(answers)} encoded conditions were not looked at")
        finally:
            self._queued = []

    def encode(self, pixels: torch.Tensor, return_dict: bool = True) -> Any:
        """The next answer, as a posterior of which `mode` and `sample` give it."""
        return Answer(Posterior(self._queued.pop(0).to(self.device, self.dtype)))


class Answer(tuple[Any]):
    """What `encode` of a VAE gives, read as `.latent_dist` or as `[0]`."""

    def __new__(cls, posterior: Any) -> Answer:
        return super().__new__(cls, (posterior,))

    @property
    def latent_dist(self) -> Any:
        """The posterior."""
        return self[0]


class Posterior:
    """One latent for a posterior. `sample` draws what the real one would, and drops it, so that a generator goes on
    as it would."""

    def __init__(self, latent: torch.Tensor) -> None:
        self.latent = latent

    def mode(self) -> torch.Tensor:
        """The latent."""
        return self.latent

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """The latent."""
        if generator is not None:
            torch.randn(self.latent.shape, generator=generator)
        return self.latent


class Recorder:
    """A VAE at work, whose answers are kept in order: what the pipeline took of each posterior."""

    def __init__(self, network: Any) -> None:
        self.network, self.taken = network, list[torch.Tensor]()

    @contextmanager
    def listening(self) -> Iterator[list[torch.Tensor]]:
        """Within it, the network's `encode` keeps its answers in the list that this gives."""
        real, self.taken = self.network.encode, []

        def encode(pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Answer:
            return Answer(_Kept(real(pixels).latent_dist, self.taken))

        self.network.encode = encode
        try:
            yield self.taken
        finally:
            del self.network.encode


class _Kept:
    """A posterior that keeps what is taken of it."""

    def __init__(self, posterior: Any, taken: list[torch.Tensor]) -> None:
        self.posterior, self.taken = posterior, taken

    def mode(self) -> torch.Tensor:
        self.taken.append(self.posterior.mode())
        return self.taken[-1]

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        self.taken.append(self.posterior.sample(generator))
        return self.taken[-1]


def whole_config(kind: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A component's config with the defaults of its class for what the JSON leaves out."""
    parameters = inspect.signature(kind.__init__).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {**defaults, **{k: v for k, v in config.items() if not k.startswith("_")}}
