"""What CI runs is what the documents tell people to type, and what runs before each commit."""

import re
import tomllib

import pytest
import yaml

from tests.printed import MARKDOWN, ROOT, in_markdown


def parts() -> dict[str, str]:
    """The parts of .ci/run in their order, each as the shell reads it."""
    text = (ROOT / ".ci/run").read_text(encoding="utf-8")
    found = re.findall(
        r'(?m)^(?:\w+=\S+ )?part "([^"]+)" (?:"([^"]+)"|(.+?))(?: \|\| exit 1)?$', text
    )
    return {name: " ".join((quoted or plain).split()) for name, quoted, plain in found}


def readme() -> list[str]:
    """README's commands that install: the demo, and the tests."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [command for command in in_markdown(text) if command.startswith("python3 -m venv")]


def test_ci_installs_and_tests_as_the_readme_says():
    _, tests = readme()
    assert tests == f"{parts()['install']} && {parts()['default tests']}"


def test_the_demo_is_installed_like_the_tests():
    demo, tests = readme()
    install, command = demo.rsplit(" && ", 1)
    assert install == tests.rsplit(" && ", 1)[0].replace("[test]", "[train,figures]")
    assert command == ".venv/bin/c2srt demo"


def test_every_document_installs_in_the_same_way():
    demo, tests = readme()
    known = {demo.rsplit(" && ", 1)[0], tests.rsplit(" && ", 1)[0]}
    commands = [
        command
        for path in MARKDOWN
        for command in in_markdown(path.read_text(encoding="utf-8"))
        if command.startswith("python3 -m venv")
    ]
    assert len(commands) > 2
    assert all(any(command.startswith(one) for one in known) for command in commands)


def test_lint_format_and_types_come_before_the_tests():
    assert list(parts())[:5] == ["install", "lint", "format", "types", "default tests"]


def test_each_commit_is_checked_by_the_same_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}
    entries = {hook["id"]: hook["entry"].split()[:2] for hook in hooks[0]["hooks"]}
    ci = {name: parts()[name].removeprefix(".venv/bin/").split()[:2] for name in entries}
    assert entries == ci


@pytest.mark.parametrize("tool", ["ruff", "mypy", "pre-commit"])
def test_each_tool_comes_with_the_tests(tool):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tool in project["optional-dependencies"]["test"]
