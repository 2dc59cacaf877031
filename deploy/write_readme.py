"""Write the generated parts of README.md: the commands, the blocks of campaign.yaml, the documented queries.

    python deploy/write_readme.py           # rewrites README.md
    python deploy/write_readme.py --check   # exit code 1 if README.md is not up to date

Each part stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def commands() -> str:
    """Return the table of commands, from the command line's own help."""
    import typer

    from campaign.cli import app

    group: Any = typer.main.get_command(app)
    rows = ["| command | what it does |", "|---|---|"]
    for name, command in group.commands.items():
        arguments = " ".join(_usage(parameter) for parameter in command.params if parameter.name != "help")
        summary = (command.help or "").splitlines()[0]
        rows.append(f"| `campaign {name} {arguments}`".rstrip(" `") + f"` | {summary} |")
    return "\n".join(rows)


def _usage(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = str(parameter.name).upper()
        return name if parameter.required else f"[{name}]"
    flag = max(parameter.opts, key=len)
    return f"[{flag}]"


def yaml_blocks() -> str:
    """Return one table per block of campaign.yaml: key, default, meaning; from the schema itself."""
    from campaign.config import json_schema

    schema = json_schema()
    parts = ["Top level:", "", *_table(schema["properties"], schema)]
    for name, field in schema["properties"].items():
        block = _block(field, schema)
        if block is not None:
            parts += ["", f"`{name}`: {str(block.get('description', '')).splitlines()[0]}", ""]
            parts += _table(block["properties"], schema)
    return "\n".join(parts)


def _block(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    found = re.search(r'"#/\$defs/(\w+)"', json.dumps(field))
    return schema["$defs"][found.group(1)] if found else None


def _table(properties: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in properties.items():
        block = _block(field, schema)
        default = field.get("default", "(required)")
        if isinstance(default, dict | list) and block is not None:
            default = "see below"
        words = field.get("description") or (block or {}).get("description", "").splitlines()[0]
        choices = field.get("enum") or next(
            (one["enum"] for one in field.get("anyOf", ()) if "enum" in one), None
        )
        if choices and not all(choice in words for choice in choices):
            words += f" One of {', '.join(choices)}."
        rows.append(f"| `{key}` | {_shown(default)} | {words} |")
    return rows


def _shown(default: Any) -> str:
    if default is None:
        return "–"
    return default.strip("()") if default in ("(required)", "see below") else f"`{json.dumps(default)}`"


def queries() -> str:
    """Return the documented queries as commands and as a MongoDB user would write them."""
    from campaign.query import EXAMPLES

    rows = ["```console"]
    for example in EXAMPLES.values():
        filter_ = json.dumps({key: _placeholder(value) for key, value in example.filter.items()})
        options = f" --fields {','.join(example.fields)}" if example.fields else ""
        if example.sort:
            options += " --sort " + ",".join(field if way > 0 else f"-{field}" for field, way in example.sort)
        if example.limit:
            options += f" --limit {example.limit}"
        if example.count_by:
            options += f" --count-by {example.count_by}"
        rows += [f"# {example.purpose}", f"$ campaign query RUN {example.collection} '{filter_}'{options}"]
    return "\n".join([*rows, "```"])


def _placeholder(value: Any) -> Any:
    return value[1:].upper() if isinstance(value, str) and value.startswith("$") else value


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "yaml-blocks": yaml_blocks, "queries": queries}


def written(text: str) -> str:
    """Return README's text with every generated part made anew."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"<!-- {name} -->.*?(<!-- /{name} -->|(?=\n\n)|\Z)", re.DOTALL)
        part = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        text, count = pattern.subn(lambda _, part=part: part, text, count=1)  # type: ignore[misc]
        if count == 0:
            raise SystemExit(f"README.md has no part <!-- {name} -->")
    return text


def main() -> None:
    """Rewrite README.md, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = written(old)
    if parser.parse_args().check:
        sys.exit(0 if new == old else "README.md is not up to date: run python deploy/write_readme.py")
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
