"""Refusal of settings that a checkpoint does not go by, before any work. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.lora import LoraConfig
from stages.families.accelerations import BACK_ENDS, CACHES, FETCHED, QUANTIZERS, is_there
from stages.families.offers import Knob, Offers, called

FORMS: Mapping[str, tuple[type, str]] = {"switch": (bool, "true or false"), "text": (str, "a text")}
"""Forms of a knob that is no number."""

ASKED = ("steps", "guidance", "scheduler", "knobs", "attention", "cache")
"""Fields of Sampling that are checked one by one, or that every family goes by."""


def check_knobs(where: str, name: str, offers: Offers, knobs: Mapping[str, Any], role: str) -> None:
    """Raise BadInput for a knob that this checkpoint does not have for this role, or a value out of its range."""
    known = {k: knob for k, knob in offers.knobs.items() if knob.role == role}
    for key, value in knobs.items():
        if key not in known:
            hint = nearest(key, known) if known else "it has none here"
            raise BadInput(f"{where}.{key}: {called(name, offers)} has no such setting; {hint}")
        check_value(f"{where}.{key}", known[key], value)


def check_value(key: str, knob: Knob, value: Any) -> None:
    """Raise BadInput for a value that is not of the knob's form, or out of its range."""
    if knob.form in FORMS:
        type_, kind = FORMS[knob.form]
        if not isinstance(value, type_):
            raise BadInput(f"{key} must be {kind}, not {value!r}")
        return
    several = knob.form == "numbers"
    if several and not (isinstance(value, list | tuple) and value):
        raise BadInput(f"{key} must be a list of numbers, not {value!r}")
    for one in value if several else (value,):
        number = isinstance(one, int | float) and not isinstance(one, bool)
        if not number or not knob.low <= one <= knob.high or (knob.whole and one != int(one)):
            kind = "a list of numbers" if several else "a whole number" if knob.whole else "a number"
            raise BadInput(f"{key} must be {kind} from {knob.low:g} to {knob.high:g}, not {value!r}")


def check_sampling(where: str, name: str, offers: Offers, sampling: Any) -> None:
    """Raise BadInput for a setting of `Sampling` that this checkpoint does not go by: it would change nothing."""
    plain = type(sampling)()
    for f in fields(sampling):
        if f.name in (*ASKED, *offers.sampling):
            continue
        if getattr(sampling, f.name) != getattr(plain, f.name):
            raise BadInput(f"{where}.{f.name}: {called(name, offers)} does not use it; leave it out")
    if sampling.steps < offers.steps:
        raise BadInput(f"{where}.steps is {sampling.steps}; {called(name, offers)} needs {offers.steps} at least")
    check_knobs(f"{where}.knobs", name, offers, sampling.knobs, "denoise")
    if sampling.scheduler:
        chosen = sampling.scheduler.get("name", "")
        if not offers.schedulers:
            raise BadInput(f"{where}.scheduler: {called(name, offers)} samples with the checkpoint's own; leave it out")
        if chosen and chosen not in offers.schedulers:
            raise BadInput(
                f"{where}.scheduler.name: {called(name, offers)} cannot sample with {chosen!r};"
                f" {nearest(str(chosen), offers.schedulers)}"
            )
    check_attention(f"{where}.attention", name, offers, sampling.attention)
    check_cache(where, name, offers, sampling)


def check_lora(where: str, name: str, offers: Offers, lora: LoraConfig) -> None:
    """Raise BadInput for adapters that this checkpoint does not take, or of which it is not clear for which network."""
    for key, one in ((where, lora), *((f"{where}.more[{i}]", one) for i, one in enumerate(lora.more))):
        if not one.path:
            if one is not lora:
                raise BadInput(f"{key}.path is empty: give the adapter, or leave the entry out")
            continue
        if not offers.lora:
            raise BadInput(f"{key}.path: {name} takes no adapter")
        parts = " or ".join(offers.lora)
        if one.part and one.part not in offers.lora:
            raise BadInput(f"{key}.part: {called(name, offers)} has no part {one.part!r} that takes one; give {parts}")
        if not one.part and len(offers.lora) > 1:
            raise BadInput(
                f"{key}.part: {called(name, offers)} denoises with two networks: say for which this is, {parts}"
            )


def check_attention(key: str, name: str, offers: Offers, chosen: str) -> None:
    """Raise BadInput for an attention back end that there is not, that this checkpoint cannot be given, or that is not
    installed."""
    if not chosen:
        return
    if not offers.attention:
        raise BadInput(f"{key}: {called(name, offers)} computes attention in one way only; leave it out")
    if chosen in FETCHED:
        raise BadInput(f"{key}: {chosen} would download a program from the hub and run it, which is not done here")
    if chosen not in BACK_ENDS:
        raise BadInput(f"{key}: there is no attention back end {chosen!r}; {nearest(chosen, BACK_ENDS)}")
    back_end = BACK_ENDS[chosen]
    if offers.attention == "masked" and not back_end.masks:
        able = ", ".join(k for k, b in BACK_ENDS.items() if b.masks)
        raise BadInput(f"{key}: {called(name, offers)} masks attention, which {chosen} cannot do; these can: {able}")
    if not is_there(back_end.package):
        raise BadInput(f"{key}: {chosen} needs the package {back_end.package}, which is not installed: install it")


def check_cache(where: str, name: str, offers: Offers, sampling: Any) -> None:
    """Raise BadInput for a cache that this checkpoint does not work with, and for its settings."""
    if not (asked := sampling.cache):
        return
    key, kind = f"{where}.cache", asked.get("name", "")
    who = called(name, offers)
    if not offers.caches:
        raise BadInput(f"{key}: the denoiser of {who} takes no cache; leave it out")
    if kind not in CACHES:
        raise BadInput(f"{key}.name: there is no cache {kind!r}; {nearest(str(kind), CACHES)}")
    if kind not in offers.caches:
        raise BadInput(f"{key}.name: {kind} does not work with {who}; these do: {', '.join(offers.caches)}")
    cache = CACHES[kind]
    for own, value in asked.items():
        if own != "name" and own not in cache.settings:
            raise BadInput(f"{key}.{own}: {kind} has no such setting; {nearest(own, cache.settings)}")
        if own != "name":
            check_value(f"{key}.{own}", cache.settings[own], value)
    for own in cache.must:
        if own not in asked:
            raise BadInput(f"{key}.{own} is missing: {cache.settings[own].help}")
    for knob in offers.uncached:
        if sampling.knobs.get(knob):
            raise BadInput(f"{where}.knobs.{knob}: no cache works beside it; leave one of the two out")


def check_windows(where: str, offers: Offers, model: ModelConfig, sampling: Any) -> None:
    """Raise BadInput for windows of a network whose weights visit the GPU: windows put new layers into it."""
    if offers.windows and sampling.knobs.get(offers.windows) and model.offload != "none":
        raise BadInput(
            f"{where}.sampling.knobs.{offers.windows}: windows do not go with {where}.model.offload={model.offload};"
            " set it to none"
        )


def check_quantize(where: str, offers: Offers, model: ModelConfig, lora: LoraConfig) -> None:
    """Raise BadInput for networks that cannot be held in fewer bits, and for what does not go together with that."""
    who = called(model.family, offers)
    for part, asked in model.quantize.items():
        key = f"{where}.model.quantize.{part}"
        if part not in offers.quantizes:
            hint = f"these can: {', '.join(offers.quantizes)}" if offers.quantizes else "none of its networks can"
            raise BadInput(f"{key}: {who} does not hold {part} in fewer bits; {hint}")
        chosen = str(asked.get("backend", ""))
        if chosen not in QUANTIZERS:
            raise BadInput(f"{key}.backend: there is no {chosen!r}; {nearest(chosen, QUANTIZERS)}")
        quantizer = QUANTIZERS[chosen]
        for own in asked:
            if own != "backend" and own not in quantizer.fields:
                raise BadInput(f"{key}.{own}: {chosen} has no such setting; {nearest(own, quantizer.fields)}")
        for own in quantizer.must:
            if own not in asked:
                raise BadInput(f"{key}.{own} is missing: {chosen} needs it")
        if not is_there(quantizer.package):
            raise BadInput(f"{key}.backend: {chosen} needs the package {quantizer.package}, which is not installed")
        if quantizer.gpu and model.device == "cpu":
            raise BadInput(f"{key}.backend: {chosen} needs a GPU, and {where}.model.device is cpu")
        if model.offload != "none":
            raise BadInput(f"{where}.model.offload: weights in fewer bits do not visit a GPU; set it to none")
        if any(one.part in ("", part) for one in lora.adapters):
            raise BadInput(
                f"{where}.lora: an adapter is added to whole weights; leave it out, or {part} out of quantize"
            )
