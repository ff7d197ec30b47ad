"""`c2srt relations mine`: asks a language model which seen categories each category is related to
(supplement B.3).

Writes below `out`: `ledger.jsonl`, every request and reply (c2srt/relations/ledger.py);
`relations.jsonl`, the relations file that `c2srt relations` reads (c2srt/relations/answers.py).
"""

import logging
from collections import Counter
from pathlib import Path

from c2srt.artefact import writing
from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.interrupts import run_tasks
from c2srt.progress import Progress
from c2srt.relations import batch
from c2srt.relations.aggregate import check_before, write_relations
from c2srt.relations.budget import MILLION, Budget, Prices
from c2srt.relations.config import MineConfig as Config
from c2srt.relations.dispatch import Backoff, Dispatcher
from c2srt.relations.endpoint import Endpoint, model_name
from c2srt.relations.kinds import RELATIONS
from c2srt.relations.ledger import Ledger
from c2srt.relations.questions import Questions, make_questions

log = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"
INCOMPLETE = 1
SAMPLE = 50  # prompts that the estimate looks at
BYTES_PER_TOKEN = 3.5  # of a list of English names; only the estimate uses it
REPLY_TOKENS = 600  # about ten relations with a short explanation each; only the estimate uses it


def run(config: Config) -> int:
    """Asks what has not been answered yet (or exports it, or imports answers), then writes the
    relations file.

    Returns 1 if questions stay without an answer.

    Raises UserError on bad input, on a key or address that does not work.
    """
    questions = make_questions(config, model_name(config.model))
    out = Path(config.out)
    with writing(out), Ledger(out / LEDGER, questions.identity) as ledger:
        check_before(out / LEDGER, out / RELATIONS, questions)
        if config.batch_export:
            return export_batch(Path(config.batch_export), config, questions, ledger)
        counts: Counter[str] = Counter()
        out_of_budget = False
        notes: list[str] = []
        if config.batch_import:
            counts = import_batch(config, questions, ledger)
        elif unanswered(questions, ledger):
            dispatcher = run_tasks(ask(config, questions, ledger))
            counts, out_of_budget, notes = (
                dispatcher.counts,
                dispatcher.out_of_budget,
                dispatcher.notes(),
            )
        return finish(config, questions, out, counts, out_of_budget, notes)


def export_batch(path: Path, config: Config, questions: Questions, ledger: Ledger) -> int:
    """Writes the open questions as batch files."""
    form = "text" if config.form == "text" else "json"
    count, files = batch.export(
        path, questions, ledger, form, config.temperature, config.max_output
    )
    if config.price_input is not None and config.price_output is not None:
        log.info(estimate_line(config, questions, ledger, prices_of(config), ledger.state.spent))
    log.info(
        f"{config.batch_export}: {count:,} questions in {files:,} batch file(s); give the results"
        " to the same command with 'batch_import=[results.jsonl]' instead of batch_export"
    )
    return 0


def import_batch(config: Config, questions: Questions, ledger: Ledger) -> Counter:
    """Takes result files (or folders of them) into the ledger."""
    prices = Prices(config.price_input or 0.0, config.price_output or 0.0, config.max_output)
    paths = [
        file
        for path in map(Path, config.batch_import)
        for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    ]
    if not paths:
        raise UserError(f"batch_import={config.batch_import[0]} holds no .jsonl file")
    counts = batch.load(paths, questions, ledger, prices)
    return counts + batch.settle_open(questions, ledger, config.attempts)


def unanswered(questions: Questions, ledger: Ledger) -> bool:
    return any(question.id not in ledger.state.final for question in questions)


async def ask(config: Config, questions: Questions, ledger: Ledger) -> Dispatcher:
    """Asks everything that is open; returns the dispatcher with its counts."""
    prices = prices_of(config)
    endpoint = Endpoint(config.model, config.url, config.timeout_s)
    spent = ledger.state.spent + sum(ledger.state.open.values())
    log.info(estimate_line(config, questions, ledger, prices, spent))
    done = sum(question.id in ledger.state.final for question in questions)
    progress = Progress("mining", questions.count, "questions")
    progress.skip(done)
    dispatcher = Dispatcher(
        questions,
        ledger,
        endpoint,
        prices,
        Budget(config.budget, spent),
        Backoff(config.backoff_s),
        "json" if config.form == "auto" else config.form,
        config.form == "auto",
        config.temperature,
        config.attempts,
        config.tries,
        progress,
    )
    try:
        await dispatcher.ask_all(config.concurrency)
        progress.close(f"{dispatcher.budget.spent:.2f} USD")
    finally:
        await endpoint.close()
    return dispatcher


def prices_of(config: Config) -> Prices:
    """Raises UserError unless the prices are given: without them the budget would mean nothing."""
    if (
        config.price_input is None
        or config.price_output is None
        or min(config.price_input, config.price_output) < 0
    ):
        raise UserError(
            "say what a million tokens cost in USD, price_input=… price_output=… (0 for a model of"
            " your own): the budget is kept with them"
        )
    return Prices(config.price_input, config.price_output, config.max_output)


def estimate_line(
    config: Config, questions: Questions, ledger: Ledger, prices: Prices, spent: float
) -> str:
    """What the open questions will cost, said before the first is sent."""
    left, total_bytes, sampled = 0, 0, 0
    for question in questions:
        if question.id in ledger.state.final:
            continue
        left += 1
        if sampled < SAMPLE:
            total_bytes += len(
                questions.prompt(question, questions.candidates(question), "json").encode()
            )
            sampled += 1
    tokens = total_bytes / max(sampled, 1) / BYTES_PER_TOKEN
    estimate = left * (tokens * prices.input + REPLY_TOKENS * prices.output) / MILLION
    line = (
        f"{left:,} questions to ask, about {tokens:,.0f} tokens each: about {estimate:,.2f} USD,"
        f" {spent:,.2f} USD spent so far, budget {config.budget:,.2f} USD"
    )
    if spent + estimate <= config.budget:
        return line
    return f"{line}\nthe budget will not do for all of them: mining stops when it is used up"


def finish(
    config: Config,
    questions: Questions,
    out: Path,
    counts: Counter,
    out_of_budget: bool,
    notes: list[str],
) -> int:
    """Writes the relations file from the ledger and says what came of it."""
    summary = write_relations(out / LEDGER, out / RELATIONS, questions)
    for what, count in sorted(counts.items()):
        if count:
            log.info(f"  {what}: {count:,}")
    for note in notes:
        log.info(f"  {note}")
    earlier = (
        f" (and {summary['others']:,} others that were asked before)" if summary["others"] else ""
    )
    log.info(
        f"{out / RELATIONS}: {summary['answered']:,} of {len(questions.rows):,} categories"
        f" answered{earlier}, {summary['relations']:,} relations,"
        f" {summary['provenance']['spent_usd']:.2f} USD"
    )
    if out_of_budget:
        log.info(
            f"the budget of {config.budget:.2f} USD is used up: to go on, run"
            f" `{Command('relations-mine', budget=2 * config.budget)}`"
        )
    if summary["open"]:
        log.info(
            f"{summary['open']:,} questions have no answer: ask them again with"
            f" `{Command('relations-mine')}`"
        )
        return INCOMPLETE
    log.info(
        f"build the graph from it with `{Command('relations', relations_file=out / RELATIONS)}`"
    )
    return 0
