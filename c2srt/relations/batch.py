"""Mining by file: the batch API's form, for services that answer big files within a day at a lower
price.

Export writes JSONL files of requests, {"custom_id", "method": "POST", "url":
"/v1/chat/completions", "body": {…}}, each within the API's limits. Import reads the result files,
{"custom_id", "response": {"status_code", "body"}, "error"}, into the same ledger that `c2srt
relations mine` keeps, so what a batch leaves open can be exported again or asked directly.
`custom_id` is the question's id, so results for another label list or other settings are noticed.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from c2srt.artefact import making
from c2srt.errors import UserError
from c2srt.files import hash_of, whole_file, whole_folder
from c2srt.opened import json_line, read_lines
from c2srt.relations.budget import Prices
from c2srt.relations.completion import ApiError, Malformed, parse_completion
from c2srt.relations.dispatch import chat_body
from c2srt.relations.endpoint import PATH
from c2srt.relations.ledger import Ledger, events, now
from c2srt.relations.questions import Question, Questions
from c2srt.relations.validation import reply_event, settle_event, taken_without
from c2srt.shown import shown

REQUESTS = 50_000  # in one file, the API's limit
BYTES = 190_000_000  # in one file; the API's limit is 200 MB
FILE = "batch-{:03}.jsonl"
ENDPOINT = "batch"
MOST_BYTES = 8 << 30  # of a file of results, read line by line
REMEDY = "a result has custom_id and response; download the file again"


@dataclass(frozen=True)
class Result:
    """What a line of results must have; whatever else is wrong with it is that question's fault."""

    custom_id: str


def export(
    folder: Path,
    questions: Questions,
    ledger: Ledger,
    form: str,
    temperature: float | None,
    max_output: int,
) -> tuple[int, int]:
    """Writes the questions that have no answer, all files or none; returns (questions, files).

    Raises UserError if the folder holds anything.
    """
    left = (question for question in questions if question.id not in ledger.state.final)
    if (first := next(left, None)) is None:
        return 0, 0
    with making(folder):
        if any(folder.glob(FILE.replace("{:03}", "*"))):
            raise UserError(
                f"{folder} holds batch files already: choose an empty folder, or remove them if"
                " they were never sent"
            )
        with whole_folder(folder) as temporary:
            return write_files(
                temporary,
                request_lines(chain([first], left), questions, form, temperature, max_output),
            )


def write_files(folder: Path, lines: Iterable[bytes]) -> tuple[int, int]:
    """Writes the batches; returns (questions, files)."""
    files = asked_count = 0
    for some in bounded(lines):
        write(folder / FILE.format(files), some)
        files, asked_count = files + 1, asked_count + len(some)
    return asked_count, files


def request_lines(
    left: Iterable[Question],
    questions: Questions,
    form: str,
    temperature: float | None,
    max_output: int,
) -> Iterator[bytes]:
    """A line a question."""
    for question in left:
        prompt = questions.prompt(question, questions.candidates(question), form)
        body = chat_body(questions.identity["model"], prompt, form, temperature, max_output)
        request = {"custom_id": question.id, "method": "POST", "url": PATH, "body": body}
        yield json.dumps(request, ensure_ascii=False).encode() + b"\n"


def bounded(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines of a file each, within the API's limits."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        if some and (len(some) == REQUESTS or size + len(line) > BYTES):
            yield some
            some, size = [], 0
        some.append(line)
        size += len(line)
    if some:
        yield some


def write(path: Path, lines: list[bytes]) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(b"".join(lines))


def load(paths: list[Path], questions: Questions, ledger: Ledger, prices: Prices) -> Counter:
    """Takes the results of batches into the ledger; counts what became of them. Results taken
    before are passed over.

    A reply that names categories beyond its list is not final: export again, or ask directly, then
    the better one is taken. Raises UserError if a file cannot be read, or if no result belongs to
    these questions.
    """
    wanted = {question.id: question for question in questions}
    taken = {event["batch"] for event in events(ledger.path) if "batch" in event}
    counts: Counter[str] = Counter()
    strangers: Counter[Path] = Counter()
    for path in paths:
        for row in results(path):
            question = wanted.get(row["custom_id"])
            if question is None:
                strangers[path] += 1
            elif question.id in ledger.state.final or hash_of(row) in taken:
                counts["results taken before"] += 1
            else:
                counts[take(row, question, questions, ledger, prices)] += 1
    if strangers and not counts:
        raise UserError(
            f"none of the {sum(strangers.values()):,} results in {next(iter(strangers))} answers a"
            " question of this run: they belong to another label list, or to other settings"
            " (model, size, seed, …)"
        )
    counts["results about unknown targets, passed over"] += sum(strangers.values())
    return counts


def take(
    row: dict, question: Question, questions: Questions, ledger: Ledger, prices: Prices
) -> str:
    """Writes one result into the ledger; returns what it was."""
    response = row["response"] if isinstance(row.get("response"), dict) else {}
    try:
        if row.get("error") or str(response.get("status_code")) != "200":
            raise Malformed(
                shown(row.get("error") or response.get("body") or row.get("response"), 300)
            )
        reply = parse_completion(response.get("body"), questions.identity["model"])
    except (ApiError, Malformed) as fault:
        note(
            ledger,
            {
                "event": "fault",
                "id": question.id,
                "attempt": 1,
                "time": now(),
                "reason": f"batch: {fault}",
                "billed": False,
                "batch": hash_of(row),
            },
        )
        return "failed requests"
    attempt = ledger.state.attempts.get(question.id, 0) + 1
    event = reply_event(
        question, questions.candidates(question), reply, questions, prices.cost(reply, 0.0), attempt
    )
    note(ledger, event | {"endpoint": ENDPOINT, "batch": hash_of(row)})
    return f"replies: {event['verdict']}"


def note(ledger: Ledger, event: dict) -> None:
    ledger.append(event)
    ledger.state.take(event)


def settle_open(questions: Questions, ledger: Ledger, attempts: int) -> Counter:
    """Takes the best reply of questions that had `attempts` unclean ones; counts them."""
    state = ledger.state
    ripe = [
        question.id
        for question in questions
        if state.attempts.get(question.id, 0) >= attempts and question.id in state.best
    ]
    taken = Counter(taken_without(state.best[key]) for key in ripe)
    for key in ripe:
        note(ledger, settle_event(key, state.best[key]))
    return taken


def results(path: Path) -> Iterator[dict]:
    """The results in a file, one at a time. Raises UserError naming the line that is none."""
    if not path.exists():
        raise UserError(f"the batch results {path} cannot be read: there is no such file")
    for number, line in read_lines(path, REMEDY, MOST_BYTES):
        if line.strip():
            yield json_line(line, path, number, "a batch result", REMEDY, Result)
