"""Writes the pages of the reference that follow from the code.

python docs/reference/generate.py
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
from pydantic import BaseModel
from typer.main import get_command

from actors.publishing import COUNTERS, GAUGES
from byzray.aggregators import RandomMixture
from byzray.commands import app
from byzray.faults import Event, Faults
from byzray.options import Options, Registry
from byzray.setups import REGISTRIES, Actors, LearningRate, Momentum, Setup, Study
from byzray.yaml import write_yaml

HERE = Path(__file__).parent

SECTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "Setup": (Setup, ""),
    "Learning rate": (LearningRate, "learning_rate."),
    "Momentum": (Momentum, "momentum."),
    "Study": (Study, "study."),
    "Actors": (Actors, "actors."),
    "Faults": (Faults, "faults."),
    "Events of faults": (Event, ""),
}
ANCHORS = {model.__name__: title.lower().replace(" ", "-") for title, (model, _) in SECTIONS.items()}

# What a validator accepts in addition to, or instead of, the annotated type.
FORMS: dict[tuple[type[BaseModel], str], str] = {
    (Setup, "learning_rate"): "number > 0, or mapping: [learning rate](#learning-rate)",
    (Setup, "study"): "`on`, `off`, or mapping: [study](#study)",
    (Setup, "attack"): "name, or mapping with `name` and options, or `none`",
    (Setup, "pre"): "name, or mapping with `name` and options, or list of these, or `none`",
    (Setup, "actors"): "mapping: [actors](#actors), or `none`",
    (Setup, "faults"): "mapping: [faults](#faults), or `none`",
    (Actors, "gpus_per_actor"): "0, a share from 0.0001 to 1, a whole number, or null",
    (Faults, "events"): "list of mappings: [events](#events-of-faults)",
    (
        RandomMixture,
        "rules",
    ): "list of mappings with a `rule` (name, or mapping with `name` and options) and its `frequency`",
    (Event, "workers"): "worker, or list of workers",
    (Event, "steps"): 'step, list of steps, or a text such as `"10-20, 25"`',
}
DEFAULTS: dict[tuple[type[BaseModel], str], str] = {
    (Setup, "tolerated"): "as `byzantine`",
    (Setup, "study"): "`on`",
    (Setup, "attack"): "`none`",
    (Setup, "pre"): "`none`",
    (Setup, "faults"): "`none`",
    (Momentum, "a"): "0.1 with `mvr`",
}

NO_MEANING = ("| field | type | default |", "|---|---|---|")

Schema = dict[str, Any]


def command_line() -> str:
    """Commands with their arguments and options, in the order of `byzray --help`."""
    parts = [f"# Command line\n\n{app.info.help}"]
    for name, command in _leaves("", get_command(app)):
        shown = [one for one in command.params if one.name != "help"]
        # Typer wraps the function of a command.
        hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        arguments = [one.metavar or one.name.upper() for one in shown if one.param_type_name == "argument"]
        usage = ["$ byzray", name, *["[OPTIONS]"] * (len(arguments) < len(shown)), *arguments]
        parts += [f"## byzray {name}", command.help, f"```console\n{' '.join(usage)}\n```"]
        rows = [_row(one, get_args(hints[one.name])[0]) for one in shown]
        parts.append("\n".join(["| | meaning | value | default |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The commands at the ends of a tree of commands, with their names."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _leaves(f"{name} {word}".strip(), inner)


def _row(parameter: Any, kind: Any) -> str:
    default = "" if parameter.default in (None, False) or parameter.required else f"`{parameter.default}`"
    if parameter.default is True:
        default = "on"
    if isinstance(parameter.default, float):
        default = f"`{parameter.default:g}`"
    if isinstance(parameter.show_default, str):
        default = parameter.show_default
    if parameter.param_type_name == "argument":
        name, value = parameter.metavar or parameter.name.upper(), _choices(kind)
    else:
        name, value = parameter.opts[0], _value(parameter, kind)
    return f"| `{name}` | {_cell(parameter.help)} | {_cell(value)} | {_cell(default)} |"


def _choices(kind: Any) -> str:
    return ", ".join(f"`{choice}`" for choice in kind) if hasattr(kind, "__members__") else ""


def _value(parameter: Any, kind: Any) -> str:
    if kind is bool:
        return ""
    if parameter.metavar:
        return ", ".join(f"`{one}`" for one in parameter.metavar.split("|"))
    bare = next(one for one in (*get_args(kind), kind) if one is not type(None))
    return {int: "integer", float: "number"}.get(bare, "text")


def setup() -> str:
    """Every field of a setup file with its type, default and meaning."""
    parts = [
        "# Fields of a setup",
        "Every field has a default but those of [events](#events-of-faults). How to write a setup, and how mistakes\n"
        "are reported: [setups](../setups.md). What `dataset`, `split`, `model`, `pre`, `aggregator` and\n"
        "`attack` can name: [what a setup can name](options.md).",
    ]
    for title, (model, prefix) in SECTIONS.items():
        parts += [f"## {title}", _text(model), _fields(model, prefix)]
    return "\n\n".join(parts)


def options() -> str:
    """What a setup can name, with definitions, options and references."""
    parts = [
        "# What a setup can name",
        "Rules, pre-aggregators, attacks, models, data sets and splits, in the words of the code. With all formulas:\n"
        "[rules and pre-aggregators](../rules.md), [attacks](../attacks.md), [data and splits](../splits.md),\n"
        "[models](../mathematics.md#models). Full citations: [references](../references.md). A class of your own:\n"
        "[extending](../extending.md).",
    ]
    titles = {
        "aggregator": "Rules",
        "pre": "Pre-aggregators",
        "attack": "Attacks",
        "model": "Models",
        "dataset": "Data sets",
        "split": "Splits",
    }
    for kind, title in titles.items():
        parts += [f"## {title}", *_registry(REGISTRIES[kind])]
    return "\n\n".join(parts)


def metrics() -> str:
    """The live metrics, as Prometheus knows them."""
    rows = ["| metric | meaning | tags |", "|---|---|---|"]
    exported = {f"ray_byzray_{name}": of for name, of in GAUGES.items()}
    exported |= {f"ray_byzray_{name}_total": of for name, of in COUNTERS.items()}
    for name, (meaning, tags) in exported.items():
        rows.append(f"| `{name}` | {_cell(meaning)} | {', '.join(f'`{tag}`' for tag in tags)} |")
    parts = [
        "# Live metrics",
        "What Ray exports of byzray to Prometheus while runs are computed. Names that end in `_total` are counters,\n"
        "all others gauges. A value that is not known is not exported. Ray adds tags: node, process, session.\n"
        "[Dashboards](../dashboard.md) shows them at work; the metrics of every step, for the science, are others:\n"
        "[`metrics.csv`](../mathematics.md#metrics).",
        "\n".join(rows),
    ]
    return "\n\n".join(parts)


def _registry(registry: Registry[Any]) -> Iterator[str]:
    for name, model in registry.classes.items():
        yield f"### `{name}`"
        yield _text(model)
        if model.model_fields:
            yield _fields(model, "")


def _docstring(model: type[BaseModel]) -> list[griffe.DocstringSection]:
    return griffe.Docstring(inspect.getdoc(model) or "").parse("google", warnings=False)


def _text(model: type[BaseModel]) -> str:
    """A docstring without its attributes."""
    parts = []
    for section in _docstring(model):
        if section.kind is griffe.DocstringSectionKind.text:
            parts.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.admonition:
            parts.append(f"{section.title}: {section.value.contents}")
    return _linked("\n\n".join(parts))


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if isinstance(base, type) and issubclass(base, BaseModel):
            for section in _docstring(base):
                if section.kind is griffe.DocstringSectionKind.attributes:
                    # "see :class:`TrainingOption`" adds nothing to what that class, a base, says.
                    found |= {
                        one.name: one.description
                        for one in section.value
                        if not (one.name in found and one.description.startswith("see :class:"))
                    }
    return found


def _linked(text: str) -> str:
    """Roles of Sphinx as links within the page, or as code."""

    def link(match: re.Match[str]) -> str:
        name = match[1].split(".")[-1]
        return f"[{name}](#{ANCHORS[name]})" if name in ANCHORS else f"`{name}`"

    return re.sub(r":\w+:`~?([\w.]+)`", link, text).replace("``", "`")


def _fields(model: type[BaseModel], prefix: str) -> str:
    meanings = _meanings(model)
    schema = model.model_json_schema(by_alias=False)
    described = any(name in meanings for name in model.model_fields)  # else the text of the class says it
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"] if described else [*NO_MEANING]
    for name, field in model.model_fields.items():
        form = FORMS.get((model, name)) or _form(schema["properties"][name])
        default = DEFAULTS.get((model, name)) or ("" if field.is_required() else f"`{_written(field.default)}`")
        meaning = _linked(_cell(meanings.get(name, ""))).removesuffix(".")
        rows.append(f"| `{prefix}{name}` | {form} | {default} |" + f" {meaning} |" * described)
    return "\n".join(rows)


def _written(default: Any) -> str:
    """A default as a setup file would write it, in one line."""
    if isinstance(default, Options):
        chosen = default.model_dump(exclude_defaults=True)
        return _flow({"name": default.written(), **chosen}) if chosen else default.written()
    if isinstance(default, LearningRate):
        return f"{default.initial}"
    if isinstance(default, BaseModel):
        return _flow(default.model_dump(exclude_none=True))
    return _flow(list(default) if isinstance(default, tuple) else default)


def _flow(value: Any) -> str:
    """Any value as YAML in one line; mappings that hold no others are written so."""
    if isinstance(value, dict | list):
        return write_yaml({"_": value}).removeprefix("_: ").strip()
    return write_yaml({"_": {"_": value}}).strip().removeprefix("_: {_: ").removesuffix("}")


def _form(schema: Schema) -> str:
    """A type in words, from its JSON schema."""
    if "anyOf" in schema:
        return ", or ".join(_form(one) for one in schema["anyOf"])
    if "$ref" in schema:
        name = schema["$ref"].split("/")[-1]
        named = "name, or mapping with `name` and options"
        return f"mapping: [{ANCHORS[name].replace('-', ' ')}](#{ANCHORS[name]})" if name in ANCHORS else named
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            return f"list of {_form(schema['items'])}"
        case "object":
            return f"mapping from step to {_form(schema['additionalProperties'])}"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
        case "null":
            return "null"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {schema[bound]}" for bound, sign in bounds.items() if bound in schema]
    return f"{schema['type']} {' and '.join(limits)}".rstrip().replace("e+", "e")


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", r"\|")


PAGES = {"command-line.md": command_line, "setup.md": setup, "options.md": options, "metrics.md": metrics}


def written(page: str) -> str:
    """A page as its file holds it."""
    note = "<!-- Written by docs/reference/generate.py (make reference); changes belong into the code. -->"
    return f"{note}\n\n{PAGES[page]()}\n"


if __name__ == "__main__":
    for page in PAGES:
        (HERE / page).write_text(written(page))
