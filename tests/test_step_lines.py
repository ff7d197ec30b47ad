"""Files of lines that grow for weeks: shortened at a restart, drawn at the end."""

import json

from c2srt.train.curve import MOST, draw_curve, thinned
from c2srt.train.step_lines import forget_after, numbered, read_step_lines


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step, **values}) + "\n"


def test_steps_that_are_done_again_go_and_what_a_kill_left_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(10) + line(20, loss=1.0) + "\0\0\0\n" + line(15) + line(30) + '{"step": 4')
    forget_after(path, 20)
    assert path.read_text() == line(10) + line(20, loss=1.0) + line(15)
    assert [one["step"] for one in read_step_lines(path)] == [10, 20, 15]
    forget_after(tmp_path / "none.jsonl", 5)
    assert not list(numbered(tmp_path / "none.jsonl"))


def test_a_long_curve_is_thinned_to_its_shape(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(1, 3 * MOST):
            file.write(line(step, loss=1 / step))
            file.write(line(step, **{"validation/mAP": 0.5}))
    found = [one["step"] for one in thinned(path)]
    assert MOST / 2 < len(found) <= MOST and found[-1] == 3 * MOST - 1
    assert len({after - before for before, after in zip(found, found[1:], strict=False)}) == 1
    draw_curve(path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 0


def test_a_short_curve_has_all_its_points(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert list(thinned(path)) == []
    path.write_text("".join(line(step, loss=1.0) for step in (2, 4, 6)))
    assert [one["step"] for one in thinned(path)] == [2, 4, 6]
