"""What a form may not hold: Prefect keeps its values and shows them to everybody."""

from __future__ import annotations

from collections.abc import Iterable

from stages.core.config_files import parse_overrides
from stages.core.errors import BadInput
from stages.core.reach.secrets import bare, secret_values


def check_form(*places: str, overrides: Iterable[str]) -> None:
    """Refuse a form with a password, a signature or a key in it. Raises BadInput, which repeats none of them."""
    for place in places:
        if bare(place) != place:
            raise BadInput(f"{bare(place)} was given with a user, a password or a query; {ELSEWHERE}")
    for word in overrides:
        name, _, value = word.partition("=")
        if "infra" not in name.split(".")[0] and bare(value) == value:
            continue
        infra = parse_overrides([word]).get("infra") or {}
        secret = [*secret_values(infra.get("storage") or {}), *((infra.get("ray") or {}).get("env") or {})]
        if secret or bare(value) != value:
            raise BadInput(f"overrides: {name} may hold a credential; {ELSEWHERE}")


ELSEWHERE = (
    "Prefect keeps what a form holds: put credentials into the environment of the worker, or into the campaign's file; "
    "delete this run on the server, and change the key"
)
