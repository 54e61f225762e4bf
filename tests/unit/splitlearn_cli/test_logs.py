import json
import logging

import httpx
import huggingface_hub.utils
import pytest
import structlog

from splitlearn_cli.logs import configure, quiet


def test_json_lines_carry_event_fields_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")

    structlog.get_logger().info("serving", address="127.0.0.1:1")

    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "serving", "address": "127.0.0.1:1", "level": "info"}


def test_the_standard_logging_module_takes_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")

    logging.getLogger("uvicorn.error").warning("slow %s", "disk")

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"]) == ("slow disk", "warning")


def test_console_lines_are_key_value(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console", "info")

    structlog.get_logger().info("serving", address="127.0.0.1:1")

    line = capsys.readouterr().err
    assert "serving" in line
    assert "address=127.0.0.1:1" in line
    assert "\x1b" not in line


def test_auto_is_json_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure("auto", "info")

    structlog.get_logger().info("serving")

    assert json.loads(capsys.readouterr().err)["event"] == "serving"


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "warning")

    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")

    assert "quiet" not in (err := capsys.readouterr().err)
    assert "loud" in err


@pytest.mark.parametrize("library", [httpx.__name__, huggingface_hub.utils.httpx.__name__])
def test_chatty_libraries_are_heard_from_warning_on(capsys: pytest.CaptureFixture[str], library: str) -> None:
    configure("json", "info")

    logging.getLogger(library).info("request")
    logging.getLogger(library).warning("trouble")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["trouble"]


def test_an_exception_is_part_of_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    try:
        raise KeyError("gone")
    except KeyError as error:
        structlog.get_logger().error("failed", exc_info=error)

    assert "KeyError: 'gone'" in json.loads(capsys.readouterr().err)["exception"]


def test_a_second_call_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    configure("json", "info")

    structlog.get_logger().info("once")

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_runs_as_a_part_of_a_verb_logs_errors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")

    with quiet():
        structlog.get_logger().warning("within")
        structlog.get_logger().error("damaged")
    structlog.get_logger().info("behind")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["damaged", "behind"]
