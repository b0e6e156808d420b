"""What every flow's config has: where it runs, what it may spend, how much of it to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.settings import InfraConfig
from stages.core.config import LITERAL
from stages.core.reach.secrets import shown, without_values
from stages.core.step import StepRef


@dataclass
class BudgetConfig:
    """What a run may spend before it stops, leaving the rest to do; 0 means no limit."""

    core_seconds: float = 0
    gpu_seconds: float = 0
    wall_seconds: float = 0


@dataclass
class FlowConfig:
    """Settings shared by the flows.

    shard_rows     units per task; 0 chooses: some tens, fewer where stages could not overlap otherwise
    limit          process at most so many sources or takes; 0 means all
    until          the last step to do; empty: all of them
    only           the steps to do; what they are handed must be there
    retry_errors   also retry permanent failures
    """

    shard_rows: int = 0
    limit: int = 0
    until: str = ""
    only: list[str] = field(default_factory=list)
    retry_errors: bool = False
    infra: InfraConfig = field(default_factory=InfraConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    steps: dict[str, Any] = field(default_factory=dict)

    @property
    def retry(self) -> str:
        """Which errors a survey counts as still to do."""
        return "all" if self.retry_errors else "transient"


def plain_config(config: Any, steps: Mapping[str, StepRef]) -> dict[str, Any]:
    """The resolved config, as it is stored with the run and printed by --dry-run. Of what may be secret it holds only
    the names."""
    entries = {n: {"use": r.use, **dataclasses.asdict(r.config)} for n, r in steps.items()}
    plain = {**dataclasses.asdict(config), "steps": entries}
    infra = plain["infra"]
    infra["storage"] = without_values(infra["storage"])
    infra["ray"]["env"] = without_values(infra["ray"]["env"])
    found: dict[str, Any] = shown(plain, LITERAL)
    if "prompts" in found:
        found["prompts"] = [p if isinstance(p, str) else shown(p, ("prompt", *LITERAL)) for p in found["prompts"]]
    return found


def fill_in(steps: Mapping[str, StepRef], found: Mapping[str, Any]) -> dict[str, StepRef]:
    """The steps with what only the flow knows, each as far as it has a setting of that name."""
    filled = {}
    for name, ref in steps.items():
        own = {f.name: found[f.name] for f in dataclasses.fields(ref.config) if f.name in found}
        filled[name] = dataclasses.replace(ref, config=dataclasses.replace(ref.config, **own)) if own else ref
    return filled


class ResolvedConfig:
    """What a checked config of any flow has: its settings, its steps in order, and both as plain data."""

    config: Any
    steps: dict[str, StepRef]

    @property
    def scope(self) -> str:
        """What a run of it is about, in a few words: its name."""
        return str(self.config.name)

    def plain(self) -> dict[str, Any]:
        """The resolved config, as it is stored with the run and printed by --dry-run."""
        return plain_config(self.config, self.steps)
