"""What Slack is told."""

from __future__ import annotations

from include.alerts.messages import Alert

ALERT = Alert(
    title="backup_daily: dump failed",
    database="hotel",
    what="pg_dump ended with status 1: relation <bookings> & friends",
    untouched="earlier backups are as they were",
    remedy="mend it",
    log_url="http://127.0.0.1:8080/dags/x",
)


def test_a_message_says_what_which_database_what_was_left_what_to_do_and_where_the_log_is() -> None:
    text = ALERT.text()
    for part in (ALERT.title, "hotel", ALERT.what, ALERT.untouched, ALERT.remedy, ALERT.log_url):
        assert part in text


def test_the_three_characters_of_slacks_markup_are_escaped_in_blocks() -> None:
    what = ALERT.blocks()[1]["text"]["text"]
    assert "&lt;bookings&gt; &amp; friends" in what
    assert "<bookings>" not in what


def test_a_long_message_is_cut_below_slacks_limit_and_says_so() -> None:
    blocks = Alert(**{**vars(ALERT), "what": "x" * 10_000, "title": "t" * 400}).blocks()
    assert len(blocks[1]["text"]["text"]) < 3000
    assert "the log has it all" in blocks[1]["text"]["text"]
    assert len(blocks[0]["text"]["text"]) <= 150
