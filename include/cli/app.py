"""Night Porter from a shell: the same functions that the DAGs call, for the day Airflow itself is down.

With --store (and --dsn, where a server is needed) nothing else is: neither Airflow nor a configuration file.

Exit status: 0 success, 1 something failed (the text says what, what was left untouched and what to do), 2 wrong usage.
"""

from __future__ import annotations

import typer

from include.cli import backups, monitor, proofs, prune, recovery

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(backups.backup)
app.command()(backups.backups)
app.command()(backups.verify)
app.command()(proofs.prove)
app.command()(recovery.restore)
app.command()(prune.prune)
app.command()(monitor.monitor)
