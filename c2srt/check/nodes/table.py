"""The table of a check: a line a node; then what they have in common, and the findings."""

from collections.abc import Iterator
from typing import Any

from c2srt.check.nodes.course import Reports
from c2srt.check.nodes.judge import FAULT, Finding, clocks
from c2srt.check.nodes.units import amount

SHOWN_VERSIONS = ("c2srt", "commit", "Python", "torch", "deepspeed", "ray", "driver", "GPUs")
UNKNOWN = "–"


def page(reports: Reports, findings: list[Finding], seconds: float, record: str) -> str:
    """The whole text."""
    bad = sum(finding.state == FAULT for finding in findings)
    count = len(reports.names)
    end = (
        f"{count} node{'s' * (count != 1)} looked at in {seconds:.0f} s: {bad} fault"
        f"{'s' * (bad != 1)}, {len(findings) - bad} warnings; {record}"
    )
    common = list(in_common(reports))
    return "\n".join([*table(reports, findings), *common, *map(str, findings), end])


def table(reports: Reports, findings: list[Finding]) -> Iterator[str]:
    """Columns as wide as what stands in them."""
    rows = [["node", *columns(reports)]]
    rows += [[name, *row(reports, name, findings)] for name in reports.names]
    widths = [max(len(line[place]) for line in rows) for place in range(len(rows[0]))]
    for line in rows:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def columns(reports: Reports) -> list[str]:
    return ["state", *differing(reports), *COLUMNS]


def row(reports: Reports, name: str, findings: list[Finding]) -> list[str]:
    """One node's."""
    states = [finding.state for finding in findings if name in finding.node.split(", ")]
    versions = reports.of("versions").get(name, {})
    return [
        states[0] if states else "ok",
        *(str(versions.get(what, UNKNOWN)) for what in differing(reports)),
        *(show(reports, name) for show in COLUMNS.values()),
    ]


def differing(reports: Reports) -> list[str]:
    """The versions that are not the same on all nodes."""
    held = reports.of("versions").values()
    return [
        what
        for what in (*SHOWN_VERSIONS, "source")
        if len({str(answer.get(what)) for answer in held}) > 1
    ]


def in_common(reports: Reports) -> Iterator[str]:
    """One line of what all nodes have, one of what they did together."""
    held = list(reports.of("versions").values())
    if held:
        same = [what for what in SHOWN_VERSIONS if what not in differing(reports)]
        yield "all: " + ", ".join(f"{what} {held[0].get(what, UNKNOWN)}" for what in same)
    reduced = list(reports.of("all_reduce").values())
    if reduced and len(reports.pairs) and (count := len(reduced)):
        rate = 2 * (count - 1) / count * reduced[0]["bytes"] / reduced[0]["seconds"]
        pairs = [found for found in reports.pairs.values() if not isinstance(found, str)]
        slowest = f"; the slowest pair {amount(min(pairs))}/s" if pairs else ""
        size = amount(reduced[0]["bytes"])
        yield f"all-reduce of {size} over {count} nodes: {amount(rate)}/s on each link{slowest}"
    if reports.left_out:
        yield "not looked at: " + ", ".join(reports.left_out)


def clock(reports: Reports, name: str) -> str:
    for node, off, _ in clocks(reports):
        if name == node or name == node.rpartition(", ")[2]:
            return f"{off:+.3f} s"
    return UNKNOWN


def had(what: str, key: str) -> Any:
    """A column of bytes."""

    def show(reports: Reports, name: str) -> str:
        have = reports.of(what).get(name, {}).get(key)
        return UNKNOWN if have is None else amount(have)

    return show


def files(reports: Reports, name: str) -> str:
    return str(reports.of("machine").get(name, {}).get("files", UNKNOWN))


def link(reports: Reports, name: str) -> str:
    """Its slowest pair."""
    own = {
        other: found
        for pair, found in reports.pairs.items()
        if name in pair and not isinstance(found, str)
        for other in pair
        if other != name
    }
    if not own:
        return UNKNOWN
    other = min(own, key=lambda node: own[node])
    return f"{amount(own[other])}/s ({other})"


def loader(reports: Reports, name: str) -> str:
    answer = reports.of("loader").get(name, {})
    return f"{answer['images_s']:.0f} images/s" if "images_s" in answer else UNKNOWN


COLUMNS = {
    "clock": clock,
    "/dev/shm": had("machine", "shared_memory"),
    "C2SRT_TMP": had("machine", "temporary"),
    "files": files,
    "slowest link": link,
    "loader": loader,
}
