"""What Slack is told."""

from __future__ import annotations

from include.alerts.messages import Alert, News

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


def test_a_message_of_escaped_characters_stays_below_slacks_limit_too_and_is_not_cut_within_one() -> None:
    shown = Alert(**{**vars(ALERT), "what": "x" + "&" * 2_000}).blocks()[1]["text"]["text"]
    assert len(shown) < 3000
    assert "&amp;… (cut" in shown


def test_news_has_a_part_for_each_change() -> None:
    news = News(
        title="backup_monitor: 1 new, 1 over",
        database="hotel",
        sections=(
            ("New, critical", "there is no verified backup.\nWhat to do: run it."),
            ("Over after 3 hours", "room"),
        ),
        log_url="http://127.0.0.1:8080/dags/x",
    )
    assert news.text() == (
        "backup_monitor: 1 new, 1 over - hotel\n"
        "New, critical: there is no verified backup.\nWhat to do: run it.\n"
        "Over after 3 hours: room\n"
        "Log: http://127.0.0.1:8080/dags/x"
    )
    assert [block["type"] for block in news.blocks()] == ["header", "section", "section", "context"]
