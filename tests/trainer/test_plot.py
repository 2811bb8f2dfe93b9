"""What a run has measured, as a person looks at it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.trainer.tiny import ROOT
from trainer.cli import main
from trainer.errors import DataError, ExitCode
from trainer.plotting.braille import drawn
from trainer.plotting.curves import Curve, read_runs
from trainer.plotting.picture import running_mean


def run_at(folder: Path, steps: int = 20, *, lr: float = 1e-3) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {"step": n, "loss": 5.0 / n, "lr": lr, "tokens_per_second": 1e6 + n, "grad_norm": 1.0} for n in steps_to(steps)
    ]
    rows += [{"step": steps, "val_loss": 0.5}, {"step": steps, "sample": "text"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def steps_to(last: int) -> range:
    return range(1, last + 1)


def test_the_curves_of_a_run_are_its_numbers_by_step(tmp_path: Path) -> None:
    (run,) = read_runs([run_at(tmp_path / "run", 3)])
    assert run.name == "run"
    assert run.curve("loss") == Curve((1, 2, 3), (5.0, 2.5, 5 / 3))
    assert run.curve("val_loss") == Curve((3,), (0.5,))
    assert not run.curve("sample")


def test_a_step_told_twice_counts_once_and_half_a_row_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 9}\n{"step": 1, "loss": null}\n{"step": 2, "loss": 3}\n[]\n{"step": 3, "lo')
    (run,) = read_runs([path])
    assert run.curve("loss") == Curve((2,), (3.0,))


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = read_runs([run_at(tmp_path / "a" / "run"), run_at(tmp_path / "b" / "run") / "metrics.jsonl"])
    assert [run.name for run in runs] == ["a/run", "b/run"]


def test_a_run_that_has_measured_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path)]) == ExitCode.DATA
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="holds nothing to draw"):
        read_runs([tmp_path])


def test_a_falling_line_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = drawn([Curve(tuple(range(11)), tuple(float(10 - n) for n in range(11)))], width=31, height=5)
    assert lines == [
        "      10 ┤⠉⠢⠤⡀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀",
        "         ┤⠀⠀⠀⠈⠉⠢⠤⡀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀",
        "         ┤⠀⠀⠀⠀⠀⠀⠀⠈⠉⠢⠤⡀⠀⠀⠀⠀⠀⠀⠀⠀",
        "         ┤⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠈⠉⠢⠤⡀⠀⠀⠀⠀",
        "       0 ┤⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠈⠉⠢⠤⣀",
        "          0                 10",
    ]


@pytest.mark.parametrize("values", [(3.0,), (3.0, 3.0), (1e-9, 1e12), (-5.0, 5.0)])
def test_any_scale_fits_into_the_frame(values: tuple[float, ...]) -> None:
    lines = drawn([Curve(tuple(range(len(values))), values)], width=40, height=4)
    assert len(lines) == 5
    assert all(len(line) <= 40 for line in lines)
    assert any(0x2801 <= ord(character) <= 0x28FF for line in lines for character in line)


def test_a_terminal_shows_every_panel_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(run_at(tmp_path / name)) for name in ("one", "two")]
    assert main(["plot", *runs]) == ExitCode.OK
    out, err = capsys.readouterr()
    for words in (
        "one",
        "two",
        "  loss: 0.25 at step 20",
        "  val loss: 0.5 at step 20",
        "  learning rate: 0.001 at step 20",
    ):
        assert words in out
    assert "tokens per second: 1.00002e+06" in out
    assert err == ""


def test_a_picture_is_one_png_with_a_panel_for_each_quantity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(run_at(tmp_path / "one", 300)), str(run_at(tmp_path / "two"))]
    assert main(["plot", *runs, "--out", str(tmp_path / "new" / "compare.png")]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "drew 2 runs in" in err
    data = (tmp_path / "new" / "compare.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG")
    assert height > width > 1000


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    assert main(["plot", str(run_at(tmp_path / "<run> & co")), "--out", str(tmp_path / "curves.html")]) == ExitCode.OK
    text = (tmp_path / "curves.html").read_text()
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Reader().feed(text)
    assert {"svg", "table", "h1"} <= {tag for tag, _ in seen}
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in seen}
    assert "&lt;run&gt; &amp; co" in text
    assert "<td>0.25</td><td>0.5</td>" in text


def test_another_ending_is_an_error_that_names_the_right_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(run_at(tmp_path / "run")), "--out", "x.bmp"]) == ExitCode.DATA
    assert ".png, .html, .svg or .pdf" in capsys.readouterr().err


def test_the_running_mean_looks_back_only() -> None:
    assert running_mean([4.0, 2.0, 6.0, 8.0], 1) == [4.0, 3.0, 4.0, 7.0]
    assert running_mean([1.0, 2.0], 0) == [1.0, 2.0]


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    program = "import sys; from trainer.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = ["plot", str(run_at(tmp_path / "run"))]
    assert subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True).returncode == 0
