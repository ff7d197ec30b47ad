"""A verb's keys as Hydra composes them, and the verb's dataclass made of them.

This is the only file that imports hydra or omegaconf, and only what runs a verb imports it.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cache
from importlib.resources import files
from typing import Any, cast, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from c2srt import datasets, hints
from c2srt.data_keys import OF_LAYOUT, DataKeys
from c2srt.errors import UserError
from c2srt.keys import defaults, plain
from c2srt.locations import ROAD, places_here, refuse_addresses
from c2srt.model.kinds import KINDS
from c2srt.old_names import as_today, grouped
from c2srt.overrides import NO_TEXT, keep_text, resolver_in, split_key, uninterpolated
from c2srt.shared_keys import NAMES as SHARED, SharedKeys
from c2srt.shown import shown
from c2srt.verb import Verb

NETWORKS = files("c2srt.configs").joinpath("networks")
OF_NETWORKS = ("train", "plan")
"""Verbs in which model=… chooses one of them; elsewhere a key may be called so (relations-mine has
one).
"""


def compose_verb(verb: Verb, overrides: list[str]) -> DictConfig:
    """The verb's resolved configuration. Raises UserError on an unknown key, group choice or bad
    value.

    Text is what was typed (c2srt/overrides.py).
    """
    overrides = as_today(verb.name, overrides)
    with begun(verb):
        try:
            overrides = with_paper(verb, overrides)
            known = defaults_of(verb, tuple(groups_in(verb, overrides)), sources())
            typed = [
                keep_text(override, lambda key: known.get(key, NO_TEXT)) for override in overrides
            ]
            refuse_resolvers(typed)
            composed = composed_with(verb, typed)
            composed = OmegaConf.create(literal(OmegaConf.to_container(composed, resolve=True)))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(readable(error, verb, chosen_data(overrides))) from error
    return composed


# `${given:${a},b}` in a default: what `a` holds, or b where that is null
OmegaConf.register_new_resolver("given", lambda value, other: other if value is None else value)

IN_A_FILE = ("prompts", "schedule", "sizes")
"""Groups whose choices are sections of a data set's file; each has the keys that it is called by,
but for `schedule`, which has those of `c2srt train`.
"""
SCHEDULES, PAPER = "schedules", "paper"
"""Section of a data set's file with further schedules by name; this one means that of the data set
in use, and is the choice <data>_paper.
"""
LIKE = "openimages"
"""The data set whose prompts another one takes that has none of its own."""


def offer_data_sets() -> None:
    """Makes the choices of `data` and of IN_A_FILE of the files that c2srt/datasets.py reads."""
    store = ConfigStore.instance()
    for group in ("data", *IN_A_FILE):
        store.repo.pop(group, None)
    contents = {name: contents_of(text) for name, text in datasets.texts().items()}
    for name, content in contents.items():
        sections = {"prompts": contents[LIKE]["prompts"]} | content
        for group in ("prompts", "sizes"):
            if group in sections:
                store.store(name, sections[group], group)
        for schedule, keys in schedules_of(name, content).items():
            store.store(schedule, grouped(keys), "schedule", "_global_")
        no_keys = (*IN_A_FILE, SCHEDULES, datasets.KNOWN)
        keys = {key: value for key, value in content.items() if key not in no_keys}
        layout = OF_LAYOUT.get(keys["data"].get("layout", DataKeys.layout), DataKeys)
        keys["data"] = defaults(layout, beside=DataKeys) | keys["data"]
        store.store(name, keys, "data", "_global_")


def schedules_of(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The schedules of a data set's file: its own, by its name, and further ones."""
    own = {name: content["schedule"]} if "schedule" in content else {}
    further = content.get(SCHEDULES, {})
    return own | {
        f"{name}_{PAPER}" if schedule == PAPER else schedule: keys
        for schedule, keys in further.items()
    }


def with_paper(verb: Verb, overrides: list[str]) -> list[str]:
    """schedule=paper as the choice that it is with the data set in use. Raises UserError on a
    schedule that is none: Hydra leaves out what it does not know, since a data set needs none of
    its own.
    """
    typed = [split_key(override) for override in overrides]
    if verb.name not in OF_NETWORKS or "schedule" not in [key for key, _ in typed]:
        return overrides
    names = [value for key, value in typed if key == "data"]
    data = names[-1] if names else defaults_of(verb, (), sources())["data.name"]
    papers = f"_{PAPER}"
    choices = [name.removesuffix(".yaml") for name in ConfigStore.instance().repo["schedule"]]
    having = sorted(name.removesuffix(papers) for name in choices if name.endswith(papers))
    for key, value in typed:
        if key == "schedule" and value == PAPER and data not in having:
            raise UserError(
                f"schedule={PAPER}: the paper has none for data={shown(data)}, only for"
                f" {' and '.join(having)}"
            )
        if key == "schedule" and value not in (PAPER, "null", *choices) and value[:1] != "{":
            known = sorted({*(name for name in choices if not name.endswith(papers)), PAPER})
            raise UserError(
                f"schedule={shown(value)} does not exist: choose one of {', '.join(known)}"
            )
    mine = {f"schedule={PAPER}": f"schedule={data}{papers}"}
    return [mine.get(override, override) for override in overrides]


def offer_networks(verb: Verb) -> None:
    """Makes the choices of `model` of configs/networks and the settings that a baseline has of its
    own.
    """
    store = ConfigStore.instance()
    store.repo.pop("model", None)
    for kind, known in KINDS.items() if verb.name in OF_NETWORKS else ():
        content = contents_of(NETWORKS.joinpath(f"{kind}.yaml").read_text(encoding="utf-8"))
        own = {name: plain(value) for name, value in asdict(known.settings()).items()}
        chosen = {"model": {"kind": kind, "baseline": own}}
        store.store(kind, {**content, **chosen}, "model", "_global_")


@cache
def contents_of(text: str) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(text)))


@contextmanager
def begun(verb: Verb) -> Iterator[None]:
    """Meanwhile Hydra knows configs/, and the defaults of the dataclasses as what those files call
    `base` and `<verb>_keys`.
    """
    GlobalHydra.instance().clear()
    offer_data_sets()
    offer_networks(verb)
    store, below = ConfigStore.instance(), verb.built_on
    store.store("base", defaults(SharedKeys))
    if below:
        store.store(f"{below.name}_keys", defaults(below.keys()))
    store.store(f"{verb.name}_keys", defaults(verb.keys(), beside=below.keys() if below else None))
    with initialize_config_module("c2srt.configs", version_base="1.3"):
        yield


def composed_with(verb: Verb, overrides: Sequence[str] = ()) -> DictConfig:
    """What Hydra composes once it has `begun`; raises its exceptions and OmegaConf's."""
    return compose(verb.name, list(overrides))


def plain_defaults(verb: Verb, typed: Sequence[str] = ()) -> dict[str, Any]:
    """What the verb's keys hold where nothing is typed but a data set, nested and unresolved.
    Raises UserError where there is none of that name.
    """
    with begun(verb):
        try:
            composed = composed_with(verb, chosen_data(typed))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(readable(error, verb)) from error
    return cast("dict[str, Any]", OmegaConf.to_container(composed))


def as_yaml(composed: DictConfig) -> str:
    """What `--cfg job` prints."""
    return OmegaConf.to_yaml(composed, resolve=True)


def refuse_resolvers(typed: list[str]) -> None:
    """Raises UserError on `${oc.env:…}` and the like: a key may name another key, and nothing else
    is looked up for it.
    """
    for override in typed:
        if found := resolver_in(override):
            raise UserError(
                f"{split_key(override)[0]}: {shown(found)} is not looked up here: let the shell put"
                f" the value in, or write '{shown(found).replace('$', chr(92) + '$', 1)}' for the"
                " text itself"
            )


def groups_in(verb: Verb, overrides: list[str]) -> list[str]:
    """Those that choose a group (data=…, model=…)."""
    keys = defaults_of(verb, (), sources())
    typed = {override: split_key(override) for override in overrides}
    return [
        override
        for override, (key, value) in typed.items()
        if key and "." not in key and key not in keys and not value.startswith("{")
    ]


def sources() -> tuple[tuple[str, str], ...]:
    """What a data set's files hold; all else that is composed stays while a process runs."""
    return tuple(datasets.texts().items())


@cache
def defaults_of(
    verb: Verb, groups: tuple[str, ...], sources: tuple[tuple[str, str], ...]
) -> dict[str, object]:
    """What the verb's keys hold, unresolved, when only the groups are chosen: to be read, not
    changed. Once a process, for the tables compose hundreds of commands.
    """
    return leaves(composed_with(verb, groups))


def chosen_data(overrides: Sequence[str]) -> list[str]:
    """The choice of a data set among overrides: it brings keys of its own."""
    return [override for override in overrides if split_key(override)[0] == "data"]


def readable(error: Exception, asked: Verb, chosen: Sequence[str] = ()) -> str:
    """Hydra's message as one sentence, with the nearest known key when a key is unknown. `chosen`:
    the data set, which is one.
    """
    verb = asked.name
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice} does not exist: choose one of {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} is not a valid override: write key=value, with odd values quoted"
            " twice, 'key=\"a value\"'"
        )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first = str(cause).strip().splitlines()[0].rstrip(".")
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if "is not in struct" in first and key is not None:
        close = difflib.get_close_matches(str(key), leaves(composed_with(asked, chosen)), 1, 0.5)
        return (
            f"unknown key {str(key)!r}{f', did you mean {close[0]!r}?' if close else ''}"
            f" (`{hints.flag(verb, '--cfg job')}` prints all)"
        )
    return f"{first} (`{hints.flag(verb, '--cfg job')}` prints the defaults)"


def leaves(config: DictConfig, prefix: str = "") -> dict[str, object]:
    """Every key of a nested configuration as `a.b.c`, with its unresolved value (a list is one
    value).
    """
    found: dict[str, object] = {}
    for key in config:
        node, name = config._get_node(key), prefix + str(key)
        assert node is not None  # the key is there
        if isinstance(node, DictConfig):
            found |= leaves(node, f"{name}.")
        else:
            found[name] = (
                OmegaConf.to_container(node) if isinstance(node, ListConfig) else node._value()
            )
    return found


def to_config(cls: type, composed: DictConfig) -> object:
    """Fills the verb's dataclass; types are checked and unknown nested keys refused. Raises
    UserError.

    Shared keys that the verb does not use are dropped; any other extra key is an error.
    """
    names = {field.name for field in fields(cls)}
    if unknown := set(composed) - names - {*SHARED, "topk"}:
        raise UserError(f"unknown key {sorted(unknown)[0]!r}: {cls.__module__} has no such field")
    try:
        values = {name: composed[name] for name in names if name in composed}
        values = {
            name: (
                OmegaConf.to_container(value)
                if isinstance(value, (DictConfig, ListConfig))
                else literal(value)
            )
            for name, value in values.items()
        }
        refuse_addresses(cls, values)
        return OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(cls), as_annotated(cls, values))
        )
    except MissingMandatoryValue as error:
        raise UserError(
            f"{missing_key(composed)}=… is needed: give it on the command line"
        ) from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise UserError(
            f"{key + ': ' if key else ''}{str(error).strip().splitlines()[0]}"
        ) from error


def bring_here(verb: Verb, composed: DictConfig) -> None:
    """Puts the paths on this machine in the place of the verb's folders that lie in stores, and
    fetches what it looks through. Raises UserError.
    """
    if verb.name not in ROAD:
        return
    values = cast("dict[str, Any]", OmegaConf.to_container(composed))
    for name, path in places_here(verb.keys(), values).items():
        OmegaConf.update(composed, name, path)


def literal(value: Any) -> Any:
    """A resolved value as OmegaConf must be given it again: `${` that are left are text."""
    if isinstance(value, dict):
        return {key: literal(below) for key, below in value.items()}
    if isinstance(value, list):
        return [literal(below) for below in value]
    return uninterpolated(value, always=True) if isinstance(value, str) and "${" in value else value


def as_annotated(cls: type, values: dict[str, object]) -> dict[str, object]:
    """The values for a dataclass, where an annotation tells more than OmegaConf uses of it: `a,b`
    for a list is [a, b], and what is text or a list of text (Any, None by default) has no numbers.
    """
    kinds, found = get_type_hints(cls), dict(values)
    for key in fields(cls):
        value, kind = found.get(key.name), kinds[key.name]
        if list in (get_origin(part) for part in (kind, *get_args(kind))) and isinstance(
            value, str
        ):
            found[key.name] = [part.strip() for part in value.split(",") if part.strip()]
        elif kind is Any and key.default is None:
            found[key.name] = only_text(value)
    return found


def only_text(value: object) -> object:
    """Numbers as text, in lists too."""
    if isinstance(value, (list, ListConfig)):
        return [only_text(part) for part in value]
    return str(value) if isinstance(value, (int, float)) else value


def missing_key(composed: DictConfig) -> str:
    """The first key that has no value yet (`???` in the YAML)."""
    return next(iter(sorted(OmegaConf.missing_keys(composed))), "a key")
