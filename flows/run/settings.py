"""What every flow's config has: where it runs, what it may spend, how much of it to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infra.settings import InfraConfig


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
    limit          only the first so many sources or takes; 0 means all
    retry_errors   try again also what failed for good
    """

    shard_rows: int = 0
    limit: int = 0
    retry_errors: bool = False
    infra: InfraConfig = field(default_factory=InfraConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    steps: dict[str, Any] = field(default_factory=dict)

    @property
    def retry(self) -> str:
        """Which errors a survey counts as still to do."""
        return "all" if self.retry_errors else "transient"
