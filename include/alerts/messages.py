"""What Slack is told: what happened, to which database, what was left untouched, what to do, and where the log is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Slack cuts a section at 3,000 characters; what does not fit is in the log.
_SECTION_CHARACTERS = 2_900


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One failure, told once.

    Args:
        title: a few words: which DAG, which step.
        database: the configured name, or None where it is about more than one.
        what: what happened.
        untouched: what it did not change.
        remedy: what to do now.
        log_url: where Airflow shows the log.
    """

    title: str
    database: str | None
    what: str
    untouched: str
    remedy: str
    log_url: str

    def text(self) -> str:
        """The message in plain text: for the log, and for clients that show no blocks."""
        about = f" - {self.database}" if self.database else ""
        return (
            f"{self.title}{about}\nWhat happened: {self.what}\nLeft untouched: {self.untouched}\n"
            f"What to do: {self.remedy}\nLog: {self.log_url}"
        )

    def blocks(self) -> list[dict[str, Any]]:
        """The message as Slack's Block Kit."""
        about = f" · {self.database}" if self.database else ""
        return [
            {"type": "header", "text": {"type": "plain_text", "text": f"{self.title}{about}"[:150]}},
            _section("What happened", self.what),
            _section("Left untouched", self.untouched),
            _section("What to do", self.remedy),
            {"type": "context", "elements": [{"type": "mrkdwn", "text": f"<{self.log_url}|Open the log in Airflow>"}]},
        ]


def _section(title: str, text: str) -> dict[str, Any]:
    shown = text if len(text) <= _SECTION_CHARACTERS else f"{text[:_SECTION_CHARACTERS]}… (cut; the log has it all)"
    return {"type": "section", "text": {"type": "mrkdwn", "text": f"*{title}*\n{_escaped(shown)}"}}


def _escaped(text: str) -> str:
    # The three characters that Slack's markup reads as its own.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
