"""A recovery with a swap, in a process of its own that kills itself at a given point. Its order comes by stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from include.backup.stores.local import LocalStore
from include.postgres.dsn import Dsn
from include.proving import recover


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_statement(begin: str, when: str) -> None:
    """Die right before, or right after, the first statement that begins so (identifiers left out)."""
    original = psycopg.Connection.execute

    def execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        text = query if isinstance(query, bytes) else query.as_string(self) if hasattr(query, "as_string") else query
        text = text.decode() if isinstance(text, bytes) else text
        words = " ".join(word for word in text.split() if not word.startswith('"'))
        if when == "before" and words.startswith(begin):
            die()
        result = original(self, query, *arguments, **options)
        if when == "after" and words.startswith(begin):
            die()
        return result

    psycopg.Connection.execute = execute  # type: ignore[method-assign]  # this process ends with it


def main() -> None:
    order = json.load(sys.stdin)
    kind, point, number = order["point"]
    if kind != "step":
        at_statement(point, kind)
    told: list[str] = []

    def progress(step: str, words: str) -> None:
        told.append(step)
        if kind == "step" and step == point and told.count(step) == number:
            die()

    store = LocalStore(Path(order["store"]))
    plan = recover.plan(
        store,
        database="app",
        target=Dsn(**order["target"]),
        swap=order["swap"],
        new_name=order["new_name"],
        now=datetime.fromisoformat(order["now"]),
    )
    recover.execute(plan, store, staging=Path(order["staging"]), progress=progress)


if __name__ == "__main__":
    main()
