"""docker-compose.yaml and the Dockerfile as data, read without Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yaml"
EXAMPLE = ROOT / ".env.example"
DOCKERFILE = ROOT / "Dockerfile"
# ${NAME:?message} or ${NAME:-default}: no other form is used.
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):(?P<kind>[?-])(?P<text>[^}]*)\}")
_INSTRUCTION = re.compile(r"^(?P<name>[A-Z]+)\s+(?P<rest>.*?)(?<!\\)$", re.MULTILINE | re.DOTALL)


def raw() -> dict[str, Any]:
    """The file with its anchors resolved, its variables not."""
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return document


def services(values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every service with its variables filled in."""
    found: dict[str, dict[str, Any]] = _filled(raw()["services"], values)
    return found


def environment(service: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
    """A service's environment as its container gets it: names without a value are handed on where they have one."""
    entries = {
        name: values.get(name) if value is None else str(value) for name, value in service["environment"].items()
    }
    return {name: value for name, value in entries.items() if value is not None}


def env_file(text: str) -> dict[str, str]:
    """The assignments of a .env file, those in comments left out."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def strings(node: Any) -> list[str]:
    """Every string in a document, keys left out."""
    if isinstance(node, dict):
        return [text for value in node.values() for text in strings(value)]
    if isinstance(node, list):
        return [text for value in node for text in strings(value)]
    return [node] if isinstance(node, str) else []


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(lines)
    return [(match["name"], match["rest"].replace("\\\n", " ")) for match in _INSTRUCTION.finditer(text)]


def image_environment() -> dict[str, str]:
    """What the Dockerfile's ENV sets."""
    words = " ".join(rest for name, rest in instructions() if name == "ENV").split()
    return dict(word.split("=", 1) for word in words)


def compose_command() -> list[str] | None:
    """Docker Compose, from the virtual environment or Docker's own; it checks a file without any engine."""
    beside = Path(sys.executable).with_name("docker-compose")
    if beside.exists():
        return [str(beside)]
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0:
        return [docker, "compose"]
    return None


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    return VARIABLE.sub(lambda match: _value(match, values), node) if isinstance(node, str) else node


def _value(match: re.Match[str], values: Mapping[str, str]) -> str:
    found = values.get(match["name"], "")
    if not found and match["kind"] == "?":
        raise KeyError(match["name"])
    return found or match["text"]
