"""What every flow's config has: where it runs, what it may spend, how much of it to do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.settings import InfraConfig
from stages.core.config_files import LITERAL
from stages.core.errors import BadInput
from stages.core.reach.secrets import shown, without_values
from stages.core.step import StepRef


@dataclass
class BudgetConfig:
    """What a run may spend before it stops and leaves the rest to do; 0 means no limit.

    core_seconds  [from 0] CPU-core seconds: the time of each row times the cores that its worker has
    gpu_seconds   [from 0] GPU seconds, counted in the same way
    wall_seconds  [from 0] seconds on the clock since the run began
    money         [from 0] what its core-seconds and GPU-seconds cost by `prices`, which must be set then
    """

    core_seconds: float = 0
    gpu_seconds: float = 0
    wall_seconds: float = 0
    money: float = 0

    def __post_init__(self) -> None:
        for name in ("core_seconds", "gpu_seconds", "wall_seconds", "money"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"budget.{name} must be 0 (no limit) or more, not {getattr(self, name)}")


@dataclass
class PricesConfig:
    """What resources cost; 0 means that a resource costs nothing. Prices change no result.

    core_hour  [from 0] the price of one CPU core for one hour
    gpu_hour   [from 0] the price of one GPU for one hour
    currency   a short text that is written behind amounts, such as EUR
    """

    core_hour: float = 0
    gpu_hour: float = 0
    currency: str = ""

    def __post_init__(self) -> None:
        for name in ("core_hour", "gpu_hour"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise BadInput(f"prices.{name} must be 0 or more, not {getattr(self, name)}")

    @property
    def known(self) -> bool:
        """Whether anything has a price."""
        return bool(self.core_hour or self.gpu_hour)

    def money(self, core_seconds: float, gpu_seconds: float) -> float:
        """What so many seconds cost."""
        return (core_seconds * self.core_hour + gpu_seconds * self.gpu_hour) / 3600

    def text(self, amount: float) -> str:
        """An amount with its currency; small ones with two digits that say something."""
        number = f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"
        return f"{number} {self.currency}".rstrip()


@dataclass
class FlowConfig:
    """Settings that all commands share.

    shard_rows    [from 0] units in one task; 0: up to 32, or fewer so that steps can overlap
    limit         [from 0] process at most this many sources, takes or clips; 0 means all
    until         the last step to run; empty runs all
    only          the only steps to run; the rows that they read must be there already
    retry_errors  also retry permanent failures, and transient ones that have used up their attempts
    infra         where the work runs
    budget        what the run may spend
    prices        what resources cost, for estimates, the table `costs` and `budget.money`
    steps         the steps by name, in their order
    """

    shard_rows: int = 0
    limit: int = 0
    until: str = ""
    only: list[str] = field(default_factory=list)
    retry_errors: bool = False
    infra: InfraConfig = field(default_factory=InfraConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    steps: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("shard_rows", "limit"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.budget.money and not self.prices.known:
            raise BadInput("budget.money needs prices: set prices.core_hour or prices.gpu_hour, too")

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
