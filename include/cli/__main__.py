"""`python -m include.cli`."""

from include.cli.app import app

app(prog_name="python -m include.cli")
