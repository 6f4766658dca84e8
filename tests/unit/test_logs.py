"""What a process logs: nothing that a secret could stand in."""

import logging

import pytest
import structlog

from lighthouse.fleet.logs import configure
from lighthouse.settings import load


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_local_variable(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure(load({"LIGHTHOUSE_LOG_FORMAT": form}))
        address = "".join(["t0", "ken"])
        try:
            assert len(address) / 0
        except ZeroDivisionError:
            structlog.stdlib.get_logger("test").exception("it broke")
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "test_logs.py" in told
    assert "t0ken" not in told
