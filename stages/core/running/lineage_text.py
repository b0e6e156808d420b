"""A lineage as lines for a terminal."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from textwrap import shorten
from typing import Any

from stages.core.config import load_class
from stages.core.errors import BadInput
from stages.core.identity import canonical
from stages.core.ledger.catalog import BOOKKEEPING, LEDGER
from stages.core.planning.plan import Node
from stages.core.running.lineage import Lineage, Link
from stages.core.step import Row

ROOTS = (("clip_id", "clip"), ("uri", "file"), ("prompt", "take"))
"""What a run starts from is called, by the first of these columns that it has."""
HIDDEN = {*LEDGER.names, *BOOKKEEPING, "rows", "uri", "position", "parent_id", "unit_id", "mark", "made_from",
          "why", "of_row", "round", "kept"}  # fmt: skip
TECHNICAL = {"pix_fmt", "sar_num", "sar_den", "field_order", "color_range", "stream_index", "n_video_streams",
             "time_base_num", "time_base_den", "start_pts", "end_pts", "duration_pts", "keyframes", "n_keyframes",
             "end_frame", "boundary_in", "boundary_out", "addressable", "pictures_uri", "pictures_sha256",
             "pictures_size", "bar_top", "bar_bottom", "bar_left", "bar_right"}  # fmt: skip
"""Columns of sources and clips that only programs read; the tables `sources`, `signals` and `clips` have them."""
EMPTY_AT_0 = ("width", "height", "n_frames", "fps", "stage_seed", "place", "among")
"""Columns that say nothing where they are 0: an embedding has no frames, and not every step draws."""
LONGEST_LIST, LONGEST_TEXT = 8, 70
NANOSECONDS, SINCE, UNTIL = 10**9, 10**17, 10**19
"""A version between these is when a local file was changed, in nanoseconds since 1970: from 1973 to 2286."""
Settings = dict[str, dict[str, str]]
"""Name of a step -> the settings of it that are shown, each as it is written on the command line."""


def as_text(found: Lineage) -> list[str]:
    """Lines for a terminal: the chain from the root down to the thing, then what was made from it.

    Of a step's settings those are shown that differ from its defaults and decide its results; what several steps of the
    chain share is said once.
    """
    own, shared = _settings(found.above)
    lines = [f"run {found.run['run_id']} ({found.run['flow']}, {found.run['status']})"]
    lines += [f"settings of several steps that are not the default: {_written(shared)}"] if shared else []
    units = next((_unit_name(link.row) for link in found.above if link.kind == "unit"), "unit")
    for link in found.above:
        lines += ["", *_link_lines(link, own.get(link.name, {}), units)]
    if found.below:
        lines += ["", f"made from {'this ' + units if len(found.above) == 1 else 'it'}:"]
        lines += [f"  {link.name:<12} {link.id}  {_standing(link)}{_gist(link.row)}" for link in found.below]
    return lines


def _unit_name(row: Row) -> str:
    return next((name for column, name in ROOTS if row.get(column)), "unit")


def _standing(link: Link) -> str:
    row = link.row
    reasons = [f"{r['metric']} {r['value']} (required: {r['op']} {r['threshold']})" for r in row.get("reasons") or []]
    told = row.get("why") or "; ".join([*reasons, *([row["error"]] if row.get("error") else [])])
    tries = f" after {row['attempt']} attempts" if row.get("attempt", 1) > 1 else ""
    return f"{row.get('status', '')}{tries}{': ' + told if told else ''}{'  ' + row['uri'] if row.get('uri') else ''}"


def _gist(row: Row) -> str:
    """The beginning of a row's text, where it has one: that of a caption."""
    text = f"{row.get('kind', '')}: {row['text']}" if row.get("text") else ""
    return "  " + shorten(text, LONGEST_TEXT, placeholder="…") if text else ""


def _link_lines(link: Link, settings: Mapping[str, str], units: str) -> list[str]:
    shared = f"  (shared by {link.shared:,} {units}s)" if link.shared > 1 else ""
    is_unit = link.kind == "unit" or link.row.get("clip_id") == link.id
    name = _unit_name(link.row) if is_unit else link.name
    lines = [f"{name} {link.id}  {_standing(link)}".rstrip() + shared]
    lines += [f"  attempt {a['attempt']}: {a['error']}" for a in link.attempts[:-1]]
    lines += [f"  {line}" for line in _columns(link)]
    if link.node is not None and link.kind in ("row", "job"):
        lines.append(f"  step: {link.node.use}, fingerprint {link.node.fingerprint}")
        lines += [f"  settings that are not the default: {_written(settings)}"] if settings else []
        lines += [f"  weights {_weights(link.node, name, mark)}" for name, mark in link.node.weights if mark]
        by = f"made by worker {link.row['worker']}" if link.row.get("worker") else "decided"
        made = f"  {by} in run {link.row.get('run_id')}"
        lines += [made] if link.row.get("run_id") else []
    return lines


def _columns(link: Link) -> Iterator[str]:
    """What a row says, a line for each column: not what is empty, nor what its other lines say."""
    for name, value in link.row.items():
        if name in HIDDEN or name in TECHNICAL or name.startswith("depends_") or value in (None, "", [], ()):
            continue
        if (name in EMPTY_AT_0 and not value and link.kind != "unit") or (
            name == "sha256" and str(value) in str(link.row.get("uri"))
        ):
            continue
        if isinstance(value, list) and len(value) > LONGEST_LIST:
            value = f"{len(value):,} values"
        if name in ("version", "source_version") and link.kind == "unit":
            name, value = version_text(str(value))
        value = float(f"{value:.6g}") if isinstance(value, float) else value
        yield f"{name}: {value}"


def _weights(node: Node, key: str, mark: str) -> str:
    """Where weights lay, and the digest of their content."""
    value = json.loads(node.config)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return f"{key}: {value}, content {mark}" if isinstance(value, str) and value else f"{key}: content {mark}"


def version_text(version: str) -> tuple[str, str]:
    """(name, value) of the `version` of a source: when the file was changed, or what its object store calls this."""
    if version.isdecimal() and SINCE <= int(version) < UNTIL:
        return "file changed", f"{datetime.fromtimestamp(int(version) // NANOSECONDS, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return "version (ETag or time of change)", version


# -- settings ----------------------------------------------------------------------------------------------------------


def _settings(links: Sequence[Link]) -> tuple[Settings, dict[str, str]]:
    """The settings of each step that are its own, and those that several steps have alike, and none otherwise."""
    every = {k.name: changed_settings(k.node.use, k.node.config) for k in links if k.node and k.kind in ("row", "job")}
    values = Counter((key, value) for settings in every.values() for key, value in settings.items())
    keys = Counter(key for key, _ in values)
    shared = {key: value for (key, value), count in values.items() if count > 1 and keys[key] == 1}
    return {n: {k: v for k, v in s.items() if k not in shared} for n, s in every.items()}, shared


def changed_settings(use: str, config: str) -> dict[str, str]:
    """The settings of a step's config (JSON) that decide its results and differ from the defaults of its class: key ->
    value as text. All of them where the class is gone."""
    given: dict[str, Any] = json.loads(config)
    try:
        schema: Any = load_class(use).Config
    except BadInput:
        return {name: _plain(value) for name, value in given.items()}
    return dict(_changed(given, schema))


def _changed(given: Mapping[str, Any], schema: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """schema: a dataclass, or an instance of one that holds the defaults."""
    known = {f.name: f for f in dataclasses.fields(schema)}
    for name, value in given.items():
        field = known.get(name)
        if field is not None and field.metadata.get("identity") is False:
            continue
        default = _default(schema, field) if field is not None else dataclasses.MISSING
        if dataclasses.is_dataclass(default) and isinstance(value, Mapping):
            yield from _changed(value, default, f"{before}{name}.")
        elif default is dataclasses.MISSING or canonical(value) != canonical(default):
            yield f"{before}{name}", _plain(value)


def _default(schema: Any, field: dataclasses.Field[Any]) -> Any:
    if not isinstance(schema, type):
        return getattr(schema, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _written(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
