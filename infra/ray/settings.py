"""The `infra.ray` part of a config. Importing this does not import Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.core.errors import BadInput

OPERATORS = ("OPENAI_BASE_URL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that lead what is sent, and the key with it, elsewhere."""


@dataclass
class RaySettings:
    """How Ray is started or joined.

    address          `local` starts Ray on this machine; `auto` or HOST:PORT joins a cluster from inside it
    num_cpus         logical CPUs of Ray on this machine, which may be more than there are; null uses all
    num_gpus         logical GPUs of Ray on this machine; null uses those that Ray finds
    object_store_mb  size of Ray's object store on this machine, in megabytes; a small one is enough, because only table
                     rows pass through it
    ready_s          seconds that a worker may take to be placed and to load its weights
    autoscaling      the cluster adds nodes on demand: a step that fits on no running node is not refused
    env              more environment variables for the workers; these win over the defaults
    """

    address: str = "local"
    num_cpus: float | None = None
    num_gpus: float | None = None
    object_store_mb: int = 200
    ready_s: float = 900.0
    autoscaling: bool = False
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.env:
            if name.upper().startswith("RUSHES_") or name.upper() in OPERATORS or name.upper().endswith("_PROXY"):
                raise BadInput(
                    f"infra.ray.env.{name}: what may be opened, and where keys go, is set in the environment of the "
                    "process and of the nodes, not in a config"
                )
