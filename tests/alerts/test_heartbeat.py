"""The heartbeat on its way, received over HTTP."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from include.alerts.heartbeat import beat
from tests.heartbeat import SECRET_PATH, Watch, heartbeat_receiver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def watch() -> Iterator[Watch]:
    with heartbeat_receiver() as receiver:
        yield receiver


def test_a_heartbeat_arrives_at_the_address_to_the_letter(watch: Watch) -> None:
    assert beat(watch.url)
    assert watch.paths == [f"/{SECRET_PATH}"]
    assert len(watch.beats) == 1


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_receiver_that_refuses_is_a_warning_without_the_secret_path(
    watch: Watch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    watch.status = status
    with caplog.at_level(logging.DEBUG):
        assert not beat(watch.url)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(status) in record.getMessage()
    assert SECRET_PATH not in caplog.text


def test_a_receiver_that_does_not_answer_is_given_up_after_the_timeout(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.answers.clear()
    with caplog.at_level(logging.DEBUG):
        assert not beat(watch.url, timeout=0.2)
    assert "cannot be reached" in caplog.text
    assert SECRET_PATH not in caplog.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://no such host", "https://127.0.0.1:1"])
def test_a_receiver_that_is_not_there_is_a_warning_without_the_secret_path(
    caplog: pytest.LogCaptureFixture, address: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert not beat(f"{address}/{SECRET_PATH}", timeout=2)
    assert "the heartbeat was not taken" in caplog.text
    assert SECRET_PATH not in caplog.text


def test_only_the_web_is_asked(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="https:// or http://") as caught:
        beat(f"file:///{SECRET_PATH}")
    assert SECRET_PATH not in str(caught.value)
