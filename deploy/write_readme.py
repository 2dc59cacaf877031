"""Write the generated parts of README.md: commands, queries, blocks of campaign.yaml, components and their options.

    python deploy/write_readme.py           # rewrites README.md
    python deploy/write_readme.py --check   # exit code 1 if README.md is not up to date

Each part stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Collection
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

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


def quickstart() -> str:
    """Return the template that the walk-through launches."""
    from campaign.templates import template_text

    return f"```yaml\n{template_text('quickstart').rstrip()}\n```"


def yaml_blocks() -> str:
    """Return one table per block of campaign.yaml: key, default, meaning; from the schema itself."""
    from campaign.config import json_schema

    schema = json_schema()
    parts = ["Top level:", "", *_table(schema, schema)]
    for name, field in schema["properties"].items():
        block = _block(field, schema)
        if block is not None and block.get("title") != "ComponentConfig":  # those are in the next part
            parts += ["", f"`{name}`: {str(block.get('description', '')).splitlines()[0]}", ""]
            parts += _table(block, schema)
    learned = schema["$defs"]["LearnSurrogateConfig"]
    parts += ["", "`learn.surrogate`:", "", *_table(learned, schema)]
    further = schema["$defs"]["FollowUpConfig"]
    parts += ["", "An entry of `labels.then`:", "", *_table(further, schema)]
    rung = schema["$defs"]["RungConfig"]
    own = {key: one for key, one in rung["properties"].items() if key not in further["properties"]}
    words = "A rung of `labels.ladder` has those of an entry of `labels.then`, and:"
    parts += ["", words, "", *_table({**rung, "properties": own}, schema)]
    return "\n".join(parts)


def site_keys() -> str:
    """Return one table per block of a site file; the keys of pools come in two: workers, and blocks of them."""
    from campaign.site import Site
    from campaign.site_driver import DriverConfig
    from campaign.site_pools import BatchKeys, KubernetesKeys, PoolConfig

    def table(model: Any, without: Collection[str] = ()) -> list[str]:
        schema = model.model_json_schema()
        for key in without:
            del schema["properties"][key]
        return _table(schema, schema)

    parts = ["Top level:", "", *table(Site)]
    parts += ["", "A pool, `pools.gpu`, `pools.cpu` or `pools.dft`:", ""]
    parts += table(PoolConfig, without=BatchKeys.model_fields)
    parts += ["", "Its blocks, in a pool or for all pools under `batch`:", "", *table(BatchKeys)]
    parts += ["", "`kubernetes`:", "", *table(KubernetesKeys)]
    parts += ["", "`driver`, the batch job of a detached driver:", "", *table(DriverConfig)]
    return "\n".join(parts)


def _block(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    found = re.search(r'"#/\$defs/(\w+)"', json.dumps(field))
    return schema["$defs"][found.group(1)] if found else None


def _table(block: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in block["properties"].items():
        inner = _block(field, schema)
        words = field.get("description") or (inner or {}).get("description", "").splitlines()[0]
        choices = field.get("enum") or next(
            (one["enum"] for one in field.get("anyOf", ()) if "enum" in one), None
        )
        if choices and not all(choice in words for choice in choices):
            words += f" One of {', '.join(choices)}."
        default = _default(field, inner, required=key in block.get("required", ()))
        rows.append(f"| `{key}` | {default} | {words} |")
    return rows


def _default(field: dict[str, Any], inner: dict[str, Any] | None, *, required: bool) -> str:
    if required:
        return "required"
    default = field.get(
        "default", {}
    )  # the schema leaves out a default that is made anew each time: a mapping
    if default is None:
        return "–"
    several = default if isinstance(default, list) else [default]
    kinds = [one["kind"] for one in several if isinstance(one, dict) and "kind" in one]
    if inner is not None and "options" in inner.get("properties", ()):
        return ", ".join(f"`{kind}`" for kind in kinds) or "`[]`"
    return "see below" if inner is not None and default else f"`{json.dumps(default)}`"


def components() -> str:
    """Return one table per sort of component: kind, what it does, its options with their defaults."""
    from campaign.screens.registry import DEFAULT_SCREEN, SCREENS
    from flows import registry as flows
    from models import registry as models

    sorts: list[tuple[str, str, list[tuple[str, str, Any]]]] = [
        ("Generators", "generators", _classes(models.GENERATORS, models.resolve)),
        ("Surrogates", "surrogate", _classes(models.SURROGATES, models.resolve)),
        ("Screens", "screen", [(kind, screen.summary, screen.options) for kind, screen in SCREENS.items()]),
        ("Property heads", "learn.heads", _classes(models.HEADS, models.resolve)),
        ("Discriminators", "learn.discriminators", _classes(models.DISCRIMINATORS, models.resolve)),
        ("Label flows", "labels.flow, labels.flow_options", _classes(flows.LABEL_FLOWS, flows.resolve)),
        ("Engines", "labels.engine, labels.engine_options", _classes(flows.ENGINES, flows.resolve)),
    ]
    parts = []
    for title, place, rows in sorts:
        places = ", ".join(f"`{one}`" for one in place.split(", "))
        parts += [
            f"{title} ({places}):",
            "",
            "| kind | what it does | options and their defaults |",
            "|---|---|---|",
        ]
        parts += [f"| `{kind}` | {summary} | {_options(options)} |" for kind, summary, options in rows]
        if place == "screen":
            parts += ["", f"Without `screen`: {', '.join(f'`{kind}`' for kind, _ in DEFAULT_SCREEN)}."]
        parts.append("")
    return "\n".join(parts[:-1])


def _classes(registry: dict[str, str], resolve: Callable[..., type[Any]]) -> list[tuple[str, str, Any]]:
    """Return (kind, first sentence, options) of every class of a registry."""
    found = []
    for kind in registry:
        cls = resolve(kind, registry, "component")
        words = re.split(r"(?:; see|\.)(?:\s|$)", (cls.__doc__ or "").strip(), maxsplit=1)[0]
        found.append((kind, words + ".", cls.Config))
    return found


def _options(model: Any) -> str:
    return ", ".join(f"`{option}`" for option in _named_options(model, "")) or "none"


def _named_options(model: Any, prefix: str) -> list[str]:
    """Return «name default» of every option; those of a block within the options as «block.name default»."""
    shown = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if hasattr(type(default), "model_fields"):
            shown += _named_options(type(default), f"{prefix}{name}.")
        else:
            shown.append(f"{prefix}{name}" + ("" if default is None else f" {json.dumps(default)}"))
    return shown


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


def failures() -> str:
    """Return the table of causes of failure, with what is done about each."""
    from campaign.failures import POLICIES
    from flows.schemas import FailureCause

    words = _member_words(FailureCause)
    rows = ["| cause | what happened | ends after | cures |", "|---|---|---|---|"]
    for cause, policy in POLICIES.items():
        tries = f"{policy.tries}" if policy.tries else "`max_attempts`"
        cures = ", then ".join(f"`{cure}`" for cure in policy.cures) or "–"
        rows.append(f"| `{cause}` | {words[cause]} | {tries} | {cures} |")
    return "\n".join(rows)


def cures() -> str:
    """Return the table of cures."""
    from flows.cures import Cure

    rows = [f"| `{cure}` | {words} |" for cure, words in _member_words(Cure).items()]
    return "\n".join(["| cure | what the next try does |", "|---|---|", *rows])


def _member_words(kind: type[StrEnum]) -> dict[str, str]:
    """Return the docstring under each member of an enumeration; Python keeps them in the source alone."""
    body = cast("ast.ClassDef", ast.parse(inspect.getsource(kind)).body[0]).body
    found = {}
    for member, below in itertools.pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(below, ast.Expr):
            value = cast("ast.Constant", below.value).value
            found[str(cast("ast.Constant", member.value).value)] = " ".join(str(value).split())
    return found


PARTS: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "commands": commands,
    "yaml-blocks": yaml_blocks,
    "site-keys": site_keys,
    "components": components,
    "queries": queries,
    "failures": failures,
    "cures": cures,
}


def written(text: str) -> str:
    """Return README's text with every generated part made anew."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"<!-- {name} -->(?:.*?<!-- /{name} -->)?", re.DOTALL)
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
