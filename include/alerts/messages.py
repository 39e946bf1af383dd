"""What Slack is told: what happened, to which database, what to do, and where the log is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

# Slack cuts a section at 3,000 characters; what does not fit is in the log.
_SECTION_CHARACTERS = 2_900


@dataclass(frozen=True, kw_only=True)
class Message(ABC):
    """A message in titled parts.

    Args:
        title: a few words: which DAG, which step.
        database: the configured name, or None where it is about more than one.
        log_url: where Airflow shows the log.
    """

    title: str
    database: str | None
    log_url: str

    @property
    @abstractmethod
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Title and text of each part."""

    def text(self) -> str:
        """The message in plain text: for the log, and for clients that show no blocks."""
        about = f" - {self.database}" if self.database else ""
        parts = "\n".join(f"{title}: {text}" for title, text in self.parts)
        return f"{self.title}{about}\n{parts}\nLog: {self.log_url}"

    def blocks(self) -> list[dict[str, Any]]:
        """The message as Slack's Block Kit."""
        about = f" · {self.database}" if self.database else ""
        return [
            {"type": "header", "text": {"type": "plain_text", "text": f"{self.title}{about}"[:150]}},
            *(_section(title, text) for title, text in self.parts),
            {"type": "context", "elements": [{"type": "mrkdwn", "text": f"<{self.log_url}|Open the log in Airflow>"}]},
        ]


@dataclass(frozen=True, kw_only=True)
class Alert(Message):
    """One failure, told once.

    Args:
        what: what happened.
        untouched: what it did not change.
        remedy: what to do now.
    """

    what: str
    untouched: str
    remedy: str

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """What happened, what was left, what to do."""
        return ("What happened", self.what), ("Left untouched", self.untouched), ("What to do", self.remedy)


@dataclass(frozen=True, kw_only=True)
class News(Message):
    """What the monitor found to have changed since it last told.

    Args:
        sections: title and text of each change.
    """

    sections: tuple[tuple[str, str], ...]

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """The sections."""
        return self.sections


def _section(title: str, text: str) -> dict[str, Any]:
    shown = _escaped(text)
    if len(shown) > _SECTION_CHARACTERS:
        # Escaped before it is measured, and not cut within an escaped character.
        shown = f"{re.sub(r'&[a-z]{0,3}$', '', shown[:_SECTION_CHARACTERS])}… (cut; the log has it all)"
    return {"type": "section", "text": {"type": "mrkdwn", "text": f"*{title}*\n{shown}"}}


def _escaped(text: str) -> str:
    # The three characters that Slack's markup reads as its own.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
