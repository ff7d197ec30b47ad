"""What the product prints for people to type: commands in Markdown, in the comments of YAML and
Slurm files, and in the code.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARKDOWN = [
    ROOT / "README.md",
    ROOT / "slurm/README.md",
    *sorted((ROOT / "c2srt").glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMENTED = [*sorted((ROOT / "configs").rglob("*.yaml")), *sorted((ROOT / "slurm").glob("*.sh"))]
PROGRAM = re.compile(
    r"(?:[A-Z0-9_]+=(?:\"[^\"]*\"|\S*)"
    r" )*(c2srt|sbatch|srun|scancel|squeue|scontrol|python3?|pip|pytest|mlflow|curl|printf|ray|uv|"
    r"export|source|git|tail|ssh|kubectl|docker|slurm/\S+\.sh|\.venv/bin/\S+)(?: |$)"
)
OUTPUT = re.compile(r"\d\d:\d\d:\d\d |\d{4}-\d\d-\d\d |batch: |train  |…$|import |c2srt\.load\(")
"""Lines of code blocks that nobody types into a shell: logs and Python."""
HINTS = ("Command", "flag", "shell", "typed")
"""The functions of c2srt/hints.py that make a command."""


def in_markdown(text: str) -> Iterator[str]:
    """Commands of code blocks, indented or fenced, and of inline code (more than a verb's name).
    Raises ValueError on a line of a code block that is neither a command nor output.
    """
    fenced, block, prose, before = False, [], [], ""
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    ") and (block or not before.strip()):
            block.append(line.strip())
        else:
            prose.append(line)
            yield from in_block(block)
            block = []
        before = line
    for found in re.findall(r"`([^`]+)`", "\n".join(prose)):
        command = " ".join(found.split())
        if PROGRAM.match(command) and len(command.split()) > 2:
            yield command


def in_block(lines: list[str]) -> Iterator[str]:
    """The commands of one block; a backslash or a pipe at the end goes on with the next line."""
    whole = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    for line in re.sub(r"\|\n\s*", "| ", whole).splitlines():
        if PROGRAM.match(line):
            yield line
        elif line and not OUTPUT.match(line):
            raise ValueError(
                f"{line!r} in a code block is neither a command nor known output: see"
                " tests/printed.py"
            )


def in_comments(text: str) -> Iterator[str]:
    """Commands of `#   command   what it does` lines, and those in backquotes."""
    for line in text.splitlines():
        if found := re.match(r"#\s+(\S.*)$", line):
            command = re.split(r" {3,}| {2,}# ", found[1])[0]
            if PROGRAM.match(command) and len(command.split()) > 1 and "`" not in command:
                yield command
    for found in re.findall(r"`([^`\n]+)`", text):
        if PROGRAM.match(found) and len(found.split()) > 2:
            yield found


def documented() -> dict[str, list[str]]:
    """Every command that a document or a comment prints, and where."""
    found: dict[str, list[str]] = {}
    for files, read in ((MARKDOWN, in_markdown), (COMMENTED, in_comments)):
        for path in files:
            for command in read(path.read_text(encoding="utf-8")):
                found.setdefault(command, []).append(path.relative_to(ROOT).as_posix())
    for path in sources():
        for text in helps(ast.parse(path.read_text(encoding="utf-8"))):
            for command in in_comments(text.value):
                found.setdefault(command, []).append(path.relative_to(ROOT).as_posix())
    return found


def helps(tree: ast.Module) -> list[ast.Constant]:
    """The texts of `key(…)`, which `--help` prints: they explain, as the comments of a YAML do."""
    return [
        text
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "key"
        for text in ast.walk(call)
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    ]


def sources() -> list[Path]:
    return sorted(
        path
        for package in ("c2srt", "cluster", "sharding")
        for path in (ROOT / package).rglob("*.py")
    )


def hints() -> dict[str, list[str]]:
    """Every call of c2srt/hints.py that makes a command, as it stands in the code, and where."""
    found: dict[str, list[str]] = {}
    for path in sources():
        if path.name == "hints.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
        }  # another thing of the same name
        for node in ast.walk(tree):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name.removeprefix("hints.") in HINTS and name not in own:
                found.setdefault(ast.unparse(node).removeprefix("hints."), []).append(
                    f"{path.relative_to(ROOT)}:{node.lineno}"
                )
    return found


def by_hand() -> list[str]:
    """Texts in the code that name a command without c2srt/hints.py; docstrings are not printed."""
    found = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        unprinted = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        unprinted |= {id(text) for text in helps(tree)}
        found += [
            f"{path.relative_to(ROOT)}: {node.value.strip()}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in unprinted
            and re.search(
                r"\b(c2srt|mlflow|sbatch|python -m) [a-z<{-]|\b(c2srt|mlflow|sbatch) $", node.value
            )
        ]
    return found


def unquoted() -> list[str]:
    """Texts of messages with a list to type, as in topk=[10,20], that zsh would take for a
    pattern.
    """
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "UserError",
                "print",
                "Missing",
                "Refused",
            ):
                texts = [
                    part.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                found += [
                    f"{path.relative_to(ROOT)}: {text}"
                    for text in texts
                    if re.search(r"(?<!['\w.])[a-z_][\w.]*=\[(?!\])", text)
                ]
    return found
