"""The paper's tables: every row is a set of commands that the verbs know; results are collected
under one protocol and rendered.
"""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from c2srt import compose, hints
from c2srt.cluster.cli import main
from c2srt.demo import table as demo_table
from c2srt.errors import UserError
from c2srt.evaluation.config import PROTOCOLS
from c2srt.evaluation.metric_state import measure
from c2srt.evaluation.results import Task, evaluate_state, write_results
from c2srt.tables import commands, render, run, runner
from c2srt.tables.collect import collect
from c2srt.tables.rows import Row, Table, controls_of, for_data, groups_of, trained_rows, trials
from tests.verbs import compose_verb, config_class, jobs, run_verb

ALL = "tables=[models,parts,time,settings,graphs,prompts,neighbours,threshold,distillation]"
MIDS = [f"/m/{column}" for column in range(8)]
SEEN = np.arange(8) < 5


NUS_WIDE_ROWS = [
    Row("K = 16", run="full"),
    Row("K = 20", run="k-20", keeps=20, train=["model.neighbours=20"]),
]


def config_of(work: Path, *overrides: str) -> run.Config:
    return compose.to_config(run.Config, compose_verb("tables", [f"work={work}", *overrides]))


# --- rows


@pytest.mark.parametrize("data", ["miniature", "openimages", "nuswide"])
def test_the_shipped_tables_are_those_of_the_paper(tmp_path, data):
    tables = for_data(config_of(tmp_path, f"data={data}", "data.root=x", ALL).tables, data)
    assert [name for name, table in tables.items() if table.axis] == [
        "neighbours",
        "threshold",
        "distillation",
    ]
    assert [row.graph for row in tables["graphs"].rows if row.run][-5:] == [
        "random",
        "similarity",
        "cooccurrence",
        "llm",
        "none",
    ]
    rows = trained_rows(tables)
    assert len({row.run for row in rows}) == len(rows)
    runs_of = {}
    for row in (row for table in tables.values() for row in table.rows):
        runs_of.setdefault(row.name, set()).add(row.run or row.untrained)
    assert all(
        len(runs) == 1 for runs in runs_of.values()
    )  # a name means one row, whatever the table
    position = {row.run: place for place, row in enumerate(rows)}
    assert all(position[needed] < position[row.run] for row in rows for needed in row.after)
    controls = {"models": "no-graph", "parts": "no-graph", "graphs": "no-graph"}
    assert all(run in {row.run for row in tables[name].rows} for name, run in controls.items())
    assert all(
        "prior" in {row.untrained for row in tables[name].rows}
        for name in ("models", "parts", "graphs", "prompts")
    )
    uses = [f"CLIP, {k} neighbours' scores" for k in (1, 3, 4)] + ["CLIP, SPARC"]
    uses += [f"distillation only, {k} neighbours' scores" for k in (1, 3, 4)]
    uses += ["distillation only", "distillation only, text smoothed"]
    assert all(
        set(uses) <= {row.name for row in tables[name].rows}
        for name in ("models", "parts", "graphs", "settings")
    )
    assert [row.x for row in tables["neighbours"].rows] == (
        [0, 1, 2, 4, 8, 16, 20] if data == "nuswide" else [0, 1, 2, 4, 8]
    )
    assert {row.run: row.train for row in tables["threshold"].rows}["alpha-1"] == [
        "model.threshold=1",
        "model.max_patches=65536",
    ]


def test_rows_that_make_no_sense_get_a_sentence():
    with pytest.raises(UserError, match="either run=… or untrained=…"):
        Row("a")
    with pytest.raises(UserError, match="six numbers"):
        Row("a", run="a", published={"nuswide": [1.0]})
    with pytest.raises(UserError, match="eight numbers"):
        Row("a", run="a", published={"nuswide": [1.0] * 6}, published_pr={"nuswide": [1.0] * 4})
    for neighbours in (0, -1):
        with pytest.raises(UserError, match=f"neighbours={neighbours} must be at least 1"):
            Row("a", untrained="sparc", neighbours=neighbours)
    with pytest.raises(UserError, match="neighbours=-1 must be at least 0"):
        Row("a", run="a", neighbours=-1)
    with pytest.raises(UserError, match="both steps_of"):
        Row("a", run="a", steps_of="b")
    with pytest.raises(UserError, match="'one' and 'two' are different, and both are run=a"):
        trained_rows({"t": Table("t", [Row("one", run="a"), Row("two", run="a", graph="none")])})
    with pytest.raises(UserError, match="needs the run 'b', and none of the chosen tables has it"):
        trained_rows({"t": Table("t", [Row("one", run="a", tuned="b")])})
    with pytest.raises(UserError, match="needs the run"):
        trained_rows(
            {"t": Table("t", [Row("one", run="a", tuned="b"), Row("two", run="b", tuned="a")])}
        )
    with pytest.raises(UserError, match="each of its rows needs x"):
        Table("t", [Row("one", run="a")], axis="K")


def test_overrides_for_one_data_set_change_the_row_there_only():
    tables = {
        "t": Table("t", [Row("a", run="a", train=["lr=1"], train_on={"miniature": ["lr=2"]})])
    }
    here, there = (trained_rows(for_data(tables, data))[0] for data in ("miniature", "openimages"))
    assert (here.train, there.train) == (["lr=1", "lr=2"], ["lr=1"]) and here.recipe != there.recipe


def test_the_graph_of_the_miniature_is_called_an_oracle_graph_wherever_it_is_shown(tmp_path):
    here, there = (
        for_data(config_of(tmp_path, f"data={data}", "data.root=x", ALL).tables, data)
        for data in ("miniature", "nuswide")
    )
    assert all(table.caption.endswith(" · oracle graph") for table in here.values())
    assert not any("oracle" in table.caption for table in there.values())
    assert [
        [row.name for row in tables["graphs"].rows if row.run == "full"] for tables in (here, there)
    ] == [["oracle graph (full C²SRT)"], ["LLM (full C²SRT)"]]
    assert "*Oracle graph*" in run.note(
        config_of(tmp_path), 1, "nuswide"
    ) and "*Oracle graph*" in demo_table.notes(1)
    assert "Oracle" not in run.note(
        config_of(tmp_path, "data=nuswide", "data.root=x"), 1, "nuswide"
    )


def test_trials_keep_the_two_kinds_of_seed_apart():
    assert trials(1, 1) == [(0, 0)] and trials(3, 3) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_parts_share_every_row_once_and_keep_together_what_needs_another(tmp_path, of):
    config = config_of(tmp_path, ALL, "seeds=2")
    rows, every = trained_rows(for_data(config.tables, "miniature")), trials(2, 1)
    whole = run.todo_of(config, rows, every)
    assert {(row.run, trial) for row, trial in whole} == {
        (row.run, trial) for row in rows for trial in every
    }
    shared = []
    for number in range(1, of + 1):
        config.part = f"{number}/{of}"
        todo = run.todo_of(config, rows, every)
        runs = [(row.run, trial) for row, trial in todo]
        assert all(
            (needed, trial) in runs[:place]
            for place, (row, trial) in enumerate(todo)
            for needed in row.after
        )
        shared += runs
    assert sorted(shared) == sorted((row.run, trial) for row, trial in whole)
    assert max(len(group) for group in groups_of(rows)) < len(rows)


# --- commands


def test_every_row_is_a_configuration_that_its_verb_knows(tmp_path):
    """The commands as they would run, composed and checked but for the run itself, for two
    CLIPs.
    """
    config = config_of(
        tmp_path, ALL, "clips=[[],[]]", "gpus_per_worker=1", 'commands.train=["steps=4"]'
    )
    workspace, rows = config.workspace, trained_rows(for_data(config.tables, "miniature"))
    for name, seconds in (("full", 2.0), *((row.steps_of, 1.0) for row in rows if row.steps_of)):
        summary = workspace.trial(name, (1, 0)) / "train.json"
        summary.parent.mkdir(parents=True)
        summary.write_text(json.dumps({"steps": 10, "seconds_per_step": seconds}))
    made = {}
    for command in [
        *commands.prepare(workspace, 1, rows),
        *(
            command
            for row in rows
            for command in commands.train_and_evaluate(workspace, row, (1, 0))
        ),
    ]:
        config = compose.to_config(
            config_class(command.verb),
            compose_verb(command.verb, command.overrides),
        )
        made.setdefault(command.verb, {})[config.out] = config
    assert set(made) == {"text", "relations", "teacher", "train", "tune", "evaluate"}
    trained = {Path(out).parent.name: config for out, config in made["train"].items()}
    assert {row.run for row in rows if not row.tuned} == set(trained)
    assert {config.shards for verb in made.values() for config in verb.values()} == {
        f"{tmp_path}/shards"
    }
    assert {config.relations for config in trained.values()} == set(made["relations"])
    assert {config.text for config in trained.values()} == set(made["text"])
    wide = commands.prepare(workspace, 1, NUS_WIDE_ROWS)
    assert wide[2].overrides[-3:] == [
        "graph=llm",
        "neighbours=20",
        f"out={tmp_path}/clip-1/relations/llm-20",
    ]
    (trained_wide, _) = commands.train_and_evaluate(workspace, NUS_WIDE_ROWS[1], (1, 0))
    assert f"relations={tmp_path}/clip-1/relations/llm-20" in trained_wide.overrides
    assert trained["simple-prompt"].text == f"{tmp_path}/clip-1/text-simple"
    assert made["text"][trained["simple-prompt"].text].chosen_templates == ["a photo of a {}"]
    assert len(made["text"][trained["full"].text].chosen_templates) == 6
    assert (
        trained["isr"].schedule.steps == 4
        and trained["isr-longer"].schedule.steps == 20
        and trained["isr"].resources.gpus_per_worker == 1
    )
    assert {config.clip.name for config in trained.values()} == {
        f"{tmp_path}/clip-1/clip/model.json"
    }
    assert {Path(config.checkpoint).parent for config in made["tune"].values()} == {
        Path(trained["mkt"].out),
        Path(trained["simple-prompt"].out),
    }
    assert {Path(config.checkpoint).parent for config in made["evaluate"].values()} == {
        Path(out) for verb in ("train", "tune") for out in made[verb]
    }


def test_uses_of_the_graph_are_evaluated_from_the_same_training(tmp_path):
    """Each in a folder of its own, after the graph that it hears; a graph that nobody is trained on
    is made for them, too.
    """
    rows = [
        Row("heard", run="a", neighbours=3, graph="llm", text="smoothed"),
        Row("own", run="a", text="smoothed"),
        Row("clip", untrained="clip", neighbours=4, graph="random"),
        Row("sparc", untrained="sparc", neighbours=4),
        Row("prior", untrained="prior"),
        Row("once more", untrained="clip", neighbours=4, graph="random"),
    ]
    tables, workspace = {"t": Table("t", rows)}, config_of(tmp_path).workspace
    trained, uses = trained_rows(tables), controls_of(tables)
    assert [(row.run, row.neighbours) for row in trained] == [("a", 0)]
    assert [row.name for row in uses] == ["heard", "once more", "sparc", "prior"]
    made = commands.prepare(workspace, 0, trained, uses)
    assert [command.verb for command in made] == ["text", *["relations"] * 2, "text", "teacher"]
    smoothed = compose.to_config(config_class("text"), compose_verb("text", made[3].overrides))
    assert (smoothed.smooth, smoothed.relations) == (4, f"{tmp_path}/relations/llm")
    assert smoothed.out == f"{tmp_path}/text-smoothed-llm"
    found = {}
    for row, trial in run.controls(tables, trials(2, 1)):
        command = commands.evaluate_control(workspace, row, trial)
        config = compose.to_config(
            config_class("evaluate"), compose_verb("evaluate", command.overrides)
        )
        assert config.out == str(workspace.evaluation(row, trial))
        place = Path(config.out).relative_to(tmp_path).as_posix()
        found[place] = (config.checkpoint, config.neighbours, Path(config.relations).name)
    assert found == {
        "a/seed-0/evaluation-llm-3": (f"{tmp_path}/a/seed-0/model", 3, "llm"),
        "a/seed-1/evaluation-llm-3": (f"{tmp_path}/a/seed-1/model", 3, "llm"),
        "evaluation-clip-random-4": ("clip", 4, "random"),
        "evaluation-sparc-llm-4": ("sparc", 4, "llm"),
        "evaluation-prior": ("prior", 0, "llm"),
    }
    (first, _) = commands.train_and_evaluate(workspace, trained[0], (0, 0))
    assert f"text={tmp_path}/text-smoothed-llm" in first.overrides


def test_a_row_is_trained_again_when_what_was_typed_for_its_clip_or_views_differs(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(commands, "load_index", lambda folder: type("Index", (), {"source": "s"}))

    def key(*given):
        return commands.key_of(commands.Workspace(tmp_path, list(given)), Row("a", run="a"), (0, 0))

    assert (
        key("data=miniature", "workers=2")
        == key("data=miniature", "workers=4")
        != key("data=miniature", "views.count=2")
    )


def test_what_is_typed_for_every_verb_reaches_every_command(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(run, "run", lambda config, jobs: seen.append(config))
    typed = ["views.count=2", "clip.pretrained=random", "workers=3", "shards=/elsewhere"]
    assert run_verb("tables", [f"work={tmp_path}", "seeds=2", *typed]) == 0
    command = seen[0].workspace.command("train", 0, "out=x")
    assert set(typed) <= set(command.overrides) and f"work={tmp_path}" in command.overrides
    assert not any(override.startswith(("seeds", "out=/")) for override in command.overrides)
    assert seen[0].workspace.shards() == Path("/elsewhere")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ("protocol=mean", "protocol='mean' is not one of"),
        ("f1_over=some", "f1_over"),
        ("part=3/2", "must be like 2/8"),
        ("part=a", "must be like 2/8"),
        ("seeds=0", "must be at least 1"),
        ("clips=[]", "clips needs an entry"),
        ("tables=[]", "leaves nothing to do"),
        ("tables=[nothing]", "nothing"),
    ],
)
def test_bad_settings_get_a_sentence(tmp_path, capsys, wrong, sentence):
    assert main(["tables", f"work={tmp_path}", wrong]) == 2
    assert sentence in capsys.readouterr().err


def test_a_training_that_was_told_to_stop_ends_the_command_with_its_status():
    with pytest.raises(SystemExit) as ended:
        runner.Runner("c2srt tables", replace(jobs(), train=lambda overrides: 75)).run(
            commands.Command("train", [])
        )
    assert ended.value.code == 75


# --- results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Real results of random scores: CLIP, and two rows × (two seeds + one more CLIP), one of them
    with a trial missing.
    """
    work = tmp_path_factory.mktemp("work")
    (work / "groups.csv").write_text("mid,group\n/m/5,plain\n/m/6,plain\n/m/7,odd\n")
    workspace = config_of(work).workspace
    for number, folder in enumerate(
        [
            work / "evaluation-clip",
            work / "clip-1/evaluation-clip",
            *(
                workspace.evaluation(Row(name, run=name), trial)
                for name in ("one", "two")
                for trial in trials(2, 2)
            ),
        ]
    ):
        evaluate_at_random(folder, number)
    shutil.rmtree(workspace.evaluation(Row("two", run="two"), (0, 1)))
    return work


def evaluate_at_random(folder: Path, number: int, topk=(1, 2), **made_from: object) -> None:
    generator = np.random.default_rng(number)
    scores, labels = (
        generator.random((40, 8), np.float32),
        generator.integers(-1, 2, (40, 8)).astype(np.int8),
    )
    values, table = evaluate_state(
        measure(scores, labels, SEEN, topk), Task(SEEN, topk, ("per_class", "lesa")), None, None
    )
    same = {
        "vocabulary": "v",
        "shards": "s",
        "split": "test",
        "topk": list(topk),
        "protocols": ["per_class", "lesa"],
    }
    write_results(
        folder,
        {**values, "made_from": same | made_from},
        table.insert_column(0, pl.Series("mid", MIDS)),
    )


TABLES = {
    "mine": Table(
        "My table",
        [
            Row("CLIP", untrained="clip"),
            Row("One", run="one", published={"nuswide": [1.5, 2.5, 3, 4, 5, 6]}),
            Row("Two & λ", run="two", x=2),
        ],
    )
}


def test_results_are_collected_by_row_and_trial(results):
    collected = collect(config_of(results).workspace, TABLES, trials(2, 2), results / "groups.csv")
    rows = collected.rows["mine"]
    assert (
        list(rows["CLIP"]) == [(0, 0), (1, 0)]
        and list(rows["One"]) == trials(2, 2)
        and list(rows["Two & λ"]) == [(0, 0), (1, 0)]
    )
    assert (
        collected.missing == [results / "two/seed-1/evaluation"]
        and collected.made_from["vocabulary"] == "v"
    )
    written = json.loads((results / "one/seed-1/evaluation/results.json").read_text())
    values = rows["One"][0, 1]
    assert (
        values["zsl/mAP/lesa"] == written["zsl"]["mAP"]["lesa"]
        and values["gzsl/F1@2/F1"] == written["gzsl"]["F1@2"]["F1"]
    )
    ap = pl.read_csv(results / "one/seed-1/evaluation/per_category.csv")["zsl_per_class"].to_list()
    assert (
        values["group/plain/per_class"] == pytest.approx((ap[5] + ap[6]) / 2)
        and values["group/odd/per_class"] == ap[7]
    )


@pytest.mark.parametrize(
    "other",
    [
        {"vocabulary": "w"},
        {"protocols": ["per_class"]},
        {"split": "validation"},
        {"shards": "t"},
        {"topk": [1]},
        {"versions": {"biam_legacy": 2}},
    ],
)
def test_results_of_another_vocabulary_or_protocol_are_refused(results, tmp_path, other):
    work = tmp_path / "work"
    shutil.copytree(results, work)
    evaluate_at_random(work / "two/seed-0/evaluation", 9, **other)
    with pytest.raises(
        UserError, match=rf"two/seed-0/evaluation/results.json has another {next(iter(other))}"
    ):
        collect(config_of(work).workspace, TABLES, trials(2, 2), None)


def test_what_was_measured_by_an_older_protocol_is_evaluated_again(results, tmp_path):
    """Older results stay readable; a table does not mix them with today's, and says what does."""
    work = tmp_path / "work"
    shutil.copytree(results, work)
    workspace, row = config_of(work).workspace, Row("one", run="one")
    today = {"protocols": list(PROTOCOLS), "versions": {"biam_legacy": 2}}
    for made_from, outdated in (
        (today, False),
        (today | {"versions": {}}, True),
        ({"protocols": ["per_class", "lesa", "biam_legacy", "dense"]}, True),
    ):
        evaluate_at_random(workspace.evaluation(row, (0, 0)), 0, **made_from)
        assert runner.is_outdated(workspace, row, (0, 0)) == outdated
    with (
        pytest.raises(UserError, match=r"`c2srt tables .*` evaluates the older ones again"),
        hints.running("tables", [f"work={work}"]),
    ):
        collect(workspace, TABLES, trials(2, 2), None)
    typed = replace(workspace, commands={"evaluate": ["protocols=[per_class,lesa]"]})
    assert not runner.is_outdated(typed, row, (0, 1))
    assert runner.is_outdated(workspace, row, (0, 1))
    ran = []
    told = runner.Runner(
        "c2srt tables", replace(jobs(), evaluate=lambda overrides: ran.append(overrides) or 0)
    )
    finished = workspace.trial("one", (0, 1)) / commands.MARK
    finished.write_text(json.dumps({"key": "k"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "key_of", lambda *_: "k")
        runner.train_missing(told, workspace, [(row, (0, 1))])
    assert len(ran) == 1 and f"out={finished.parent}/evaluation" in ran[0]


def test_names_that_a_seen_one_gives_away_are_said_below_the_tables(results, tmp_path, capsys):
    work = tmp_path / "work"
    shutil.copytree(results, work)
    for run_, heard in (("one", 1), ("two", 2)):
        path = work / run_ / "seed-0/evaluation/results.json"
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "given_away": ["as/a", "bs/b"], "twins_heard": heard}))
    config = config_of(work, f"out={tmp_path}/t", "topk=[1,2]", "train=false", "groups=null")
    config.tables = TABLES
    run.run(config, jobs())
    said = "2 of the 3 unseen names equal a seen one but for a plural (as/a, bs/b)"
    text = (tmp_path / "t/tables.md").read_text()
    assert f"{said}: the training saw these words, say so beside ZSL; 2 of these hear" in text
    assert said in capsys.readouterr().out


def test_the_tables_as_files(results, tmp_path, capsys):
    config = config_of(
        results,
        f"out={tmp_path}",
        "topk=[1,2]",
        "seeds=2",
        "clips=[[],[]]",
        "train=false",
        f"groups={results}/groups.csv",
    )
    config.tables = TABLES
    run.run(config, jobs())
    markdown = (tmp_path / "mine.md").read_text().splitlines()
    assert markdown[0] == "**My table · oracle graph · miniature, per_class, percent**"
    head = [cell.strip() for cell in markdown[2].strip("|").split("|")]
    assert head == [
        "row",
        "ZSL mAP",
        "odd mAP",
        "plain mAP",
        "GZSL mAP",
        "ZSL F1@1",
        "GZSL F1@1",
        "ZSL F1@2",
        "GZSL F1@2",
    ]
    body = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown[4:]
    }
    assert body["· published, nuswide"][1:] == [
        "1.5",
        "–",
        "–",
        "2.5",
        "–",
        "–",
        "–",
        "–",
    ]  # its F1 are at other K
    same = render.text_of(
        render.MARKDOWN,
        "",
        TABLES["mine"],
        dict.fromkeys(("CLIP", "One", "Two & λ"), {}),
        render.columns_of([5, 3], "lesa", "all", []),
        "nuswide",
    )
    assert "| · published, nuswide | 1.5 | 2.5 | 5.0 | 6.0 | 3.0 | 4.0 |" in same
    lines = list(csv.DictReader((tmp_path / "mine.csv").open()))
    one = {
        (int(line["clip"]), int(line["seed"])): 100 * float(line["value"])
        for line in lines
        if line["row"] == "One" and line["figure"] == "zsl/mAP/per_class"
    }
    assert list(one) == trials(2, 2)
    spread = abs(one[0, 0] - one[0, 1]) / 2, abs(one[0, 0] - one[1, 0]) / 2
    assert (
        body["One"][1] == f"{sum(one.values()) / 3:.1f} ±{spread[0]:.1f} ±{spread[1]:.1f}"
        and "±" in body["CLIP"][1]
    )
    record = json.loads((tmp_path / "mine.json").read_text())
    assert (
        record["rows"][2]["x"] == 2
        and len(record["rows"][1]["trials"]) == 3
        and record["made_from"]["split"] == "test"
    )
    assert 100 * record["rows"][1]["trials"][0]["values"]["zsl/mAP/per_class"] == pytest.approx(
        one[0, 0]
    )
    latex = (tmp_path / "mine.tex").read_text()
    assert (
        r"Two \& $\lambda$ & " in latex
        and latex.count(r" \\") == 5
        and latex.count("&") == 5 * 8 + 1
    )
    said = capsys.readouterr().out
    assert (
        "1 results are missing" in said
        and "Mean of 3 trials" in said
        and "only their order can be compared" in said
    )


def test_a_part_of_the_tables_leaves_the_others_in_tables_md(results, tmp_path, capsys):
    common = (f"out={tmp_path}", "train=false", "groups=null", "topk=[1,2]")
    more = {"other": Table("The other", [Row("One", run="one")])}
    for overrides, tables in (((*common, "seeds=2", "clips=[[],[]]"), TABLES), (common, more)):
        config = config_of(results, *overrides)
        config.tables = tables
        run.run(config, jobs())
    text, said = (tmp_path / "tables.md").read_text(encoding="utf-8"), capsys.readouterr().out
    places = [
        text.index(part)
        for part in ("**The other ·", "One trial.", "**My table ·", "Mean of 3 trials")
    ]
    assert (
        places == sorted(places) and text.count("mAP is `per_class`") == 2
    )  # each below its own note
    assert "tables.md also keeps what earlier calls wrote: mine" in said
    run.run(config, jobs())
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    (tmp_path / "mine.json").write_text(
        "{", encoding="utf-8"
    )  # a broken record does not stop the others
    run.run(config, jobs())
    assert "My table" not in (tmp_path / "tables.md").read_text(encoding="utf-8")


def test_paths_of_any_name_go_through_the_commands(tmp_path):
    work = tmp_path / 'run [1], "two"'
    workspace = config_of(tmp_path).workspace
    workspace = commands.Workspace(work, workspace.given, root=str(work / "raw"), clips=[[], []])
    for command in (
        *commands.prepare(workspace, 1, [Row("a", run="a", text="simple")]),
        *commands.train_and_evaluate(workspace, Row("a", run="a", text="simple"), (1, 0)),
    ):
        composed = compose_verb(command.verb, command.overrides)
        assert composed.work == str(work / "clip-1") and str(composed.out).startswith(str(work))
    assert composed.checkpoint == str(work / "clip-1/a/seed-0/model")
    for text in ('a"b', "a\\", "x,y", "/p", "null", "1e5"):
        assert compose_verb("text", [hints.override("out", text)]).out == text


def test_nothing_there_gets_a_sentence(tmp_path, capsys):
    assert main(["tables", f"work={tmp_path}", "groups=null", "train=false"]) == 2
    assert (
        "results is there, such as" in capsys.readouterr().err
        and not (tmp_path / "tables").exists()
    )
    assert main(["tables", f"work={tmp_path}", "groups=nowhere.csv"]) == 2
    assert "groups=nowhere.csv does not exist" in capsys.readouterr().err


def test_a_cell_without_a_figure_is_a_dash():
    assert (
        render.cell({}, "zsl/mAP/lesa") == "–" and render.cell({(0, 0): {"x": 0.5}}, "x") == "50.0"
    )
