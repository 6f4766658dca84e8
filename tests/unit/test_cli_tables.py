"""Tables of the command line: whole where there is room, blocks where words would be broken."""

from functools import partial

import pytest
from rich.console import Console

from lighthouse.cli.support import print_table

COLUMNS = ("id", "target", "for>", "why")
ROWS = (
    ("cc93dd27-0be5-5de6-895a-4f36e983a4b0", "http://127.0.0.1:18080/slow", "36 s", "too slow"),
    ("602f27ac-2b26-5350-97e8-2b594e976f60", "http://127.0.0.1:18080/fast", "2 min", None),
)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal as wide as the test says."""
    of_its_width = partial(Console, width=request.param, force_terminal=True, color_system=None)
    monkeypatch.setattr("rich.console.Console", of_its_width)


@pytest.mark.parametrize("terminal", [70], indirect=True)
@pytest.mark.usefixtures("terminal")
def test_where_words_would_be_broken_each_row_is_a_block(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(COLUMNS, ROWS)
    assert capsys.readouterr().out == (
        "id      cc93dd27-0be5-5de6-895a-4f36e983a4b0\n"
        "target  http://127.0.0.1:18080/slow\n"
        "for     36 s\n"
        "why     too slow\n"
        "\n"
        "id      602f27ac-2b26-5350-97e8-2b594e976f60\n"
        "target  http://127.0.0.1:18080/fast\n"
        "for     2 min\n"
    )


@pytest.mark.parametrize("terminal", [100], indirect=True)
@pytest.mark.usefixtures("terminal")
def test_where_there_is_room_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS)
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == [*ROWS[0][:2], "36", "s", "too", "slow"]
    assert second.split() == [*ROWS[1][:2], "2", "min", "–"]


def test_in_a_pipe_a_row_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(COLUMNS, ROWS)
    assert len(capsys.readouterr().out.splitlines()) == 4
