"""The grammar of prompts: a template has one place for the category's name. Names enter it as they
are (case and punctuation kept), only underscores become spaces.
"""

from typing import Any

from c2srt.errors import UserError

SLOT = "{}"


def check_templates(templates: list[str]) -> None:
    """Raises UserError unless there is a template and each has exactly one place for the name."""
    if not templates:
        raise UserError("templates is empty: give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if not isinstance(template, str) or template.count(SLOT) != 1:
            raise UserError(
                f"template {template!r} must contain {SLOT} exactly once, where the category's name"
                " goes"
            )


def chosen_templates(templates: Any, prompts: dict[str, list[str]]) -> list[str]:
    """The explicit list, or the list of `prompts` that is named. Raises UserError on an unknown
    name.
    """
    if isinstance(templates, list):
        return templates
    if templates not in prompts:
        raise UserError(
            f"templates={templates} is not known: choose one of {', '.join(prompts)},"
            " or give a list, templates='[\"a photo of a {}.\"]'"
        )
    return prompts[templates]


def clean(name: str) -> str:
    """The name as it enters a prompt: underscores become spaces, nothing else changes."""
    return name.replace("_", " ")


def prompts_of(names: list[str], templates: list[str]) -> list[str]:
    """Every template of the first name, then of the second, …"""
    return [template.replace(SLOT, clean(name)) for name in names for template in templates]
