"""Identity: what makes two pieces of work the same. Resume is set difference on these.

A fingerprint is the hash of everything that changes a step's output; a row id is the hash of the fingerprint, the rows
that the step is handed, and the values of the unit on which it depends. Whatever has no stable identity raises instead
of being guessed.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

ID_BYTES = 16


def canonical(value: Any) -> Any:
    """The JSON form that is hashed: equal for equal meaning, on every machine. Raises TypeError for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return canonical(value.value)
    if isinstance(value, float):
        return _canonical_float(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {_text_key(k): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    raise TypeError(f"{type(value).__name__} {value!r} has no stable identity; use numbers, text, lists or mappings")


def _canonical_float(value: float) -> float | int | str:
    """1.0 and 1 mean the same in a config; infinities are not JSON."""
    if math.isnan(value):
        raise TypeError("nan has no stable identity")
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _text_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key {key!r} is not text")
    return key


def digest(*parts: Any) -> str:
    """The hash of canonical values, as 32 hexadecimal digits."""
    text = json.dumps(canonical(list(parts)), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=ID_BYTES).hexdigest()


def row_id(fingerprint: str, parents: str, depends: str) -> str:
    """The id of the row that a step makes: of its fingerprint, the ids of the rows that it is handed (`join_parents`),
    and the values of the unit that decide the result (`depends_digest`)."""
    return hashlib.blake2b(f"{fingerprint}/{parents}/{depends}".encode(), digest_size=ID_BYTES).hexdigest()


def join_parents(ids: Iterable[str | None]) -> str:
    """Parent ids in the order of a step's ports, as one text. A port without a row is empty, and such ports at the end
    are left out: so a further optional port changes no id of a unit that has nothing for it."""
    return "/".join(i or "" for i in ids).rstrip("/")


def value_digest(name: str, value: Any) -> str:
    """The hash of one named value of a unit. Null, "" and 0 differ; a field of a struct that is null is as one that is
    absent, so that a struct may get further fields later. Raises TypeError for what has no stable identity."""
    return digest(name, _without_null_fields(value))


def depends_digest(values: Mapping[str, Any]) -> str:
    """The identity of the values that decide a result, whatever their order; "" where there are none.

    A value that is null counts as one that is not there, so that a step may come to read a further column and changes
    nothing for units that do not set it; "" and 0 are values.
    """
    return joined_digest(value_digest(name, values[name]) for name in sorted(values) if values[name] is not None)


def joined_digest(digests: Iterable[str]) -> str:
    """The hash of digests in their order, "" where there are none."""
    text = "".join(digests)
    return text_digest(text) if text else ""


def text_digest(text: str) -> str:
    """The hash of a text as it is, as 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=ID_BYTES).hexdigest()


def depends_key(columns: Iterable[str]) -> str:
    """The name of the column that keeps the `depends_digest` of these columns of a unit."""
    return f"depends_{digest(sorted(columns))[:12]}"


def _without_null_fields(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_null_fields(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_null_fields(v) for v in value]
    return value


def child_id(parent_id: str, index: int) -> str:
    """The id of the index-th of several rows made of one input."""
    return hashlib.blake2b(f"{parent_id}#{index}".encode(), digest_size=ID_BYTES).hexdigest()


def stage_seed(seed: int, node: str, counter: int = 0) -> int:
    """The seed of one node's generator for a take, 0 <= value < 2**63; independent of batch, worker and order.

    counter tells apart the draws of one node for one take: its windows, say. The name of the node enters, so that the
    same step twice in a cascade draws different noise.
    """
    text = f"{seed}/{node}/{counter}" if counter else f"{seed}/{node}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def digest_of_ids(ids: Iterable[str]) -> str:
    """The identity of a set of rows, whatever their order."""
    hasher = hashlib.blake2b(digest_size=ID_BYTES)
    for item in sorted(ids):
        hasher.update(item.encode() + b"\n")
    return hasher.hexdigest()


def is_safe_name(name: str) -> bool:
    """Whether a name can be a folder of the store on any file system."""
    return bool(name) and PurePath(name).name == name and name.replace("_", "").replace("-", "").isalnum()
