"""The documentation: what it shows loads and runs, what follows from the code is up to date, and the site is whole."""

import contextlib
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
from pydantic import ValidationError

from actors import Supervision
from byzray import Setup, SetupError, load_setup, simulate
from byzray.aggregators import AGGREGATORS
from byzray.attacks import ATTACKS
from byzray.commands import app, main
from byzray.datasets import DATASETS
from byzray.metrics import METRIC_COLUMNS
from byzray.mistakes import BrokenContract
from byzray.models import MODELS
from byzray.options import Registry
from byzray.preaggregators import PREAGGREGATORS
from byzray.report import write_report
from byzray.report.archive import add_to_archive, read_archive
from byzray.runs.directory import RunDirectory
from byzray.splits import SPLITS
from byzray.yaml import LARGEST_TEXT, MOST_VALUES, parse_yaml
from sweeps.definition import MOST_DRAWS, MOST_SEEDS, load_sweep
from sweeps.grid import MOST_COMBINATIONS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
TEXTS = {page: (DOCS / page).read_text() for page in PAGES} | {"README.md": (ROOT / "README.md").read_text()}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["command-line.md", "setup.md", "options.md", "metrics.md"])
def test_reference_follows_from_the_code(page: str) -> None:
    pytest.importorskip("griffe", reason="needs griffe: pip install mkdocstrings-python, which `make test` does")
    written = runpy.run_path(str(DOCS / "reference/generate.py"))["written"]
    assert TEXTS[f"reference/{page}"] == written(page), "the code has changed: make reference writes the page anew"


def setup_blocks() -> Iterator[Any]:
    for page, text in TEXTS.items():
        for number, block in enumerate(blocks(text, "yaml")):
            content = parse_yaml(block)
            own = "my_" in block
            wrong = content.get("dataset") == "mnits" if isinstance(content, dict) else True
            if not (own or wrong) and content.keys() <= Setup.model_fields.keys():
                yield pytest.param(content, id=f"{page}-{number}")


@pytest.mark.parametrize("content", list(setup_blocks()))
def test_setups_load(content: dict[str, Any]) -> None:
    Setup.model_validate(content)


def test_sweeps_load(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/digits.yaml", tmp_path)
    for block in blocks(TEXTS["sweeps.md"], "yaml"):
        (tmp_path / "mine.yaml").write_text(block)
        assert load_sweep(str(tmp_path / "mine.yaml")).setups()


def test_mistakes_are_reported_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = TEXTS["setups.md"]
    (wrong,) = [block for block in blocks(page, "yaml") if "mnits" in block]
    (shown,) = [block for block in blocks(page, "console") if "wrong.yaml: 8 mistakes" in block]
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(wrong)
    with pytest.raises(SetupError) as raised:
        load_setup("wrong.yaml")
    assert shown.split("\n", 1)[1].strip() == f"byzray: {raised.value}"


OWN_FILES = ["rule", "selection", "weights", "memory", "mixing", "attack", "poison", "split", "model", "data"]


@pytest.fixture
def own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of extending.md, as it says, and nothing else."""
    section = re.compile(r"^## .*?`(my_\w+\.py)`\n.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
    files = section.findall(TEXTS["extending.md"])
    assert [name.removeprefix("my_").removesuffix(".py") for name, _ in files] == OWN_FILES
    for name, source in files:
        (tmp_path / name).write_text(source)
    (tmp_path / "mine.yaml").write_text(blocks(TEXTS["extending.md"], "yaml")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def test_own_classes_run_together(own_classes: Path) -> None:
    setup = load_setup("mine.yaml", {"steps": 12})
    options = [option.label() for named in setup.options().values() for option in named]
    assert options == ["Rows", "SmallCNN", "ByLabel", "NormLimit", "MiddleNorms", "Repeat"]
    result = simulate(setup)
    assert result.parameters.std() > 0
    assert result.metrics["Attack acceptation ratio"].notna().all()
    with pytest.raises(SetupError, match=re.escape("Repeat needs victim < honest; got victim = 9, honest = 8")):
        load_setup("mine.yaml", {"attack.victim": 9})


@pytest.mark.parametrize(
    ("field", "name", "accepts"),
    [
        ("aggregator", "my_rule:MidRange", False),
        ("aggregator", "my_weights:InverseNorms", True),
        ("aggregator", "my_memory:RunningMedian", False),
        ("aggregator", "my_memory:DrawnMedian", False),
        ("attack", "my_attack:WorstHonest", True),
        ("attack", "my_poison:ShiftedLabels", True),
    ],
)
def test_own_classes_run_one_by_one(own_classes: Path, field: str, name: str, accepts: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = simulate(load_setup("mine.yaml", {"steps": 4, field: name}))
    assert result.parameters.std() > 0
    assert result.metrics["Attack acceptation ratio"].notna().all() == accepts


@pytest.mark.parametrize("name", ["MidRange", "InverseNorms", "RunningMedian"])
def test_own_rules_stand_what_is_not_finite(own_classes: Path, name: str) -> None:
    module = {"MidRange": "my_rule", "InverseNorms": "my_weights", "RunningMedian": "my_memory"}[name]
    result = simulate(
        load_setup("mine.yaml", {"steps": 3, "aggregator": f"{module}:{name}", "attack": "nan", "pre": "none"})
    )
    assert result.metrics["Defense gradient norm"].notna().all()


def test_own_classes_from_python(own_classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = [block for block in blocks(TEXTS["extending.md"], "python") if "from my_attack import" in block]
    exec(compile(script, "extending.md", "exec"), {"__name__": "script"})
    assert re.match(r"\{'name': 'my_selection:MiddleNorms', 'share': 0.5\} 0\.\d{3}$", capsys.readouterr().out)


def test_porting_shows_what_runs_and_what_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_rules, new_rules, old_attack, new_attack = blocks(TEXTS["porting.md"], "python")
    messages = re.findall(r"^\w+ \w+ is written for byzray 0\.1: .*$", TEXTS["porting.md"], re.MULTILINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    # The import of the other old rule fails, and takes this one along.
    old_rules = old_rules.replace(", SelectingAggregator", "").partition("class Shortest")[0]
    sources = {"old_rules": old_rules, "new_rules": new_rules, "old_attack": old_attack, "new_attack": new_attack}
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    common = {"byzantine": 3, "steps": 2, "actors": None, "attack": "little"}
    for change, message in zip(
        ({"aggregator": "old_rules:Middle"}, {"attack": "old_attack:Opposite"}), messages, strict=True
    ):
        with pytest.raises(BrokenContract) as failure:
            simulate(Setup.model_validate({**common, **change}))
        assert str(failure.value) == message
    for change in (
        {"aggregator": "new_rules:Middle"},
        {"aggregator": "new_rules:Shortest"},
        {"attack": "new_attack:Opposite"},
    ):
        assert len(simulate(Setup.model_validate({**common, **change})).metrics) == 2
    (tmp_path / "old_selecting.py").write_text(blocks(TEXTS["porting.md"], "python")[0])
    with pytest.raises(ValidationError, match=r"since byzray 0\.2 it is Selecting"):
        Setup(aggregator="old_selecting:Shortest")


def test_modules_that_moved_are_where_porting_says() -> None:
    for old, new in re.findall(r"^\| (`byzray.*) \| (`byzray.*) \|$", TEXTS["porting.md"], re.MULTILINE):
        for name in re.findall(r"`(byzray[\w.]+)`", new):
            importlib.import_module(name)
        for name in re.findall(r"`(byzray[\w.]+)`", old):
            assert importlib.util.find_spec(name) is None, name


def test_a_partition_of_ones_own_is_dealt_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = TEXTS["heterogeneous.md"]
    (script,) = [block for block in blocks(page, "python") if "np.savez" in block]
    (tmp_path / "mine.yaml").write_text(blocks(page, "yaml")[0])
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "heterogeneous.md", "exec"), {})
    for path, shown in zip(
        (str(ROOT / "examples/heterogeneous.yaml"), "mine.yaml"),
        re.findall(r"^```\n((?:# .*\n)+)```", page, re.MULTILINE),
        strict=True,
    ):
        monkeypatch.setattr(sys, "argv", ["byzray", "show", path])
        with contextlib.suppress(SystemExit):
            main()
        assert capsys.readouterr().out.endswith(f"\n{shown}")


def test_the_figure_of_splits_shows_what_is_said() -> None:
    tables = runpy.run_path(str(ROOT / "benchmarks/splits_figure.py"))
    for name, split in tables["SPLITS"].items():
        table, skew = tables["counts"](split)
        sizes = table.sum(axis=0)
        line = f"{name:<15} label skew {skew:.2f}, shards of {sizes.min()} to {sizes.max()} examples, "
        assert line in TEXTS["heterogeneous.md"]


def test_first_script_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(blocks(TEXTS["index.md"], "python")[0], "index.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(50, 24) 0.")


def test_the_rule_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    (script,) = [block for block in blocks(TEXTS["README.md"], "python") if "class " in block]
    exec(compile(script, "README.md", "exec"), {"__name__": "script"})
    assert 0.1 < float(capsys.readouterr().out) < 1


def tutorial() -> dict[str, Any]:
    pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient, which `make test` does")
    return runpy.run_path(str(DOCS / "reference/notebook.py"))


def test_the_reproduction_follows_from_its_archive(tmp_path: Path) -> None:
    """The tables of the page; and the report of a part of the archive, as that of all takes a minute."""
    script = runpy.run_path(str(DOCS / "reference/reproduction.py"))
    page = TEXTS["reproduction.md"]
    parts, _ = script["blocks"]()
    assert page == script["filled"](page, parts), "the archive has changed: make reproduction writes the page anew"
    assert (DOCS / "figures/reproduction.png").stat().st_size > 10_000
    runs = read_archive(script["ARCHIVE"], "archive").runs
    of_bulyan = [run for run in runs if run.setup["aggregator"]["name"] in ("bulyan", "average")]
    archive = tmp_path / "reproduction.parquet"
    assert add_to_archive(archive, of_bulyan) == (len(of_bulyan), len(of_bulyan))
    report = write_report(archive)
    assert report.states == {"finished": len(of_bulyan)}
    assert report.page == tmp_path / "reproduction-report/index.html"
    counted = re.search(r"^\| bulyan \| (\d+) \| \d+ of \d+ \| (\d+) of (\d+) ", parts["counts"], re.MULTILINE)
    assert counted is not None
    pairs, won_back, effective = map(int, counted.groups())
    assert [(one.successes, one.effective) for one in report.judgements[1:]] == [(won_back, effective)]
    assert any(f"{pairs} of {pairs} decided" in line for line in report.summary)


def test_the_page_of_the_tutorial_follows_from_its_notebook() -> None:
    script = tutorial()
    notebook = nbformat.read(script["NOTEBOOK"], as_version=4)
    assert [cell.id for cell in notebook.cells if cell.get("outputs")] == [], "outputs are kept in the page alone"
    written = script["without_outputs"](TEXTS["my-first-study.md"])
    assert written == script["page"](notebook)[0], "the notebook has changed: make notebook writes the page anew"


def test_the_tutorial_runs(tmp_path: Path) -> None:
    script = tutorial()
    text, figures = script["page"](script["executed"](tmp_path))
    assert len(figures) == 1
    placements = re.search(r"\nupdate +(0\.\d+).*\n(?:.*\n)+?worker +(0\.\d+)", text)
    assert placements is not None
    assert float(placements[2]) > float(placements[1]) + 0.1


@pytest.mark.parametrize("page", TEXTS)
def test_python_compiles(page: str) -> None:
    for block in blocks(TEXTS[page], "python"):
        compile(block, page, "exec")


@pytest.mark.parametrize("page", TEXTS)
def test_commands_exist(page: str) -> None:
    """Every `byzray` command that is shown, with every option and every file of examples/."""
    for block in blocks(TEXTS[page], "console"):
        for line in re.findall(r"^\$ byzray (.*(?:\n {3,}\S.*)*)", block, re.MULTILINE):
            command: Any = typer.main.get_command(app)
            for word in line.split():
                if hasattr(command, "commands"):
                    assert word in command.commands, line
                    command = command.commands[word]
            known = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)) <= known, line
            for path in re.findall(r"examples/[\w.-]+", line):
                assert (ROOT / path).exists(), line


def shown(*names: str) -> Iterator[Any]:
    """Pages, `byzray` commands of these names, and what is printed, as far as it is shown."""
    for page, text in TEXTS.items():
        for block in blocks(text, "console"):
            for line, output in re.findall(r"^\$ (byzray .*)\n((?:(?!\$ ).*\n)+)", block, re.MULTILINE):
                if line.split()[1] in names and "SWEEP" not in line:
                    yield pytest.param(page, shlex.split(line)[1:], output, id=f"{page}: {line}")


@pytest.mark.parametrize(("page", "command", "output"), list(shown("show", "list", "sweep")))
def test_commands_print_what_is_shown(
    page: str, command: list[str], output: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = request.getfixturevalue("monkeypatch")
    if page == "extending.md":
        request.getfixturevalue("own_classes")
    elif page == "sweeps.md":
        in_folder_of_sweeps_md(request.getfixturevalue("tmp_path"), patch)
    elif "wrong.yaml" in command:
        patch.chdir(request.getfixturevalue("tmp_path"))
        Path("wrong.yaml").write_text(next(block for block in blocks(TEXTS[page], "yaml") if "mnits" in block))
    else:
        patch.chdir(ROOT)
    patch.setattr(sys, "argv", ["byzray", *command])
    patch.setattr(sys, "path", [*sys.path])
    with contextlib.suppress(SystemExit):
        main()
    printed = capsys.readouterr()
    assert [line.rstrip() for line in (printed.out + printed.err).splitlines()] == output.splitlines()


def in_folder_of_sweeps_md(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """With the sweep that the page shows, but for the condition without which a combination is a mistake."""
    shutil.copy(ROOT / "examples/digits.yaml", folder)
    (sweep,) = [block for block in blocks(TEXTS["sweeps.md"], "yaml") if "base: digits.yaml" in block]
    (folder / "mine.yaml").write_text(re.sub(r"^conditions:\n.*\n", "", sweep, flags=re.MULTILINE))
    patch.chdir(folder)


def test_run_directories_are_named_as_shown(own_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = 0
    for case in shown("run"):
        page, (_, file, *options), output = case.values
        monkeypatch.chdir(own_classes if page == "extending.md" else ROOT)
        values = [option.partition("=") for before, option in pairwise(options) if before == "--set"]
        changes: dict[str, Any] = {key: parse_yaml(value) for key, _, value in values}
        changes |= {"actors": None} if "--in-process" in options else {}
        name = RunDirectory.name(load_setup(file, changes))
        if "results/" in output:
            assert set(re.findall(r"results/([\w+-]+)", output)) == {name}, case.id
            known += 1
    assert known > 6


@pytest.mark.parametrize(
    ("registry", "page"),
    [
        (AGGREGATORS, "rules.md"),
        (PREAGGREGATORS, "rules.md"),
        (ATTACKS, "attacks.md"),
        (MODELS, "mathematics.md"),
        (DATASETS, "splits.md"),
        (SPLITS, "splits.md"),
    ],
)
def test_every_option_has_its_row_in_the_mathematics(registry: Registry[Any], page: str) -> None:
    rows = re.findall(r"^\| (`.*?) \|", TEXTS[page], re.MULTILINE)
    assert set(registry.classes) <= {name for row in rows for name in re.findall("`([^`]*)`", row)}
    (listed,) = re.findall(r"^## What is in\n(.*?)^## ", TEXTS["README.md"], re.MULTILINE | re.DOTALL)
    assert set(registry.classes) <= set(re.findall("`([^`]*)`", listed))


def test_numbers_are_those_of_the_code() -> None:
    vectors = {
        part: json.loads((ROOT / f"tests/vectors/{part}.json").read_text()) for part in ("aggregators", "attacks")
    }
    cases = json.loads((ROOT / "tests/vectors/trajectories/cases.json").read_text())["cases"]
    demo, paper, appendix = (load_sweep(name) for name in ("demo", "paper", "appendix"))
    counts = [len(vectors["aggregators"]), len(vectors["attacks"]), len(cases)]
    said = {
        "sweeps.md": [f"`{s.name}` | {len(s.setups())} | {len(s.seeds)} |" for s in (demo, paper, appendix)],
        "limits.md": [
            f"at most {LARGEST_TEXT:,} characters and {MOST_VALUES:,} values",
            f"at most {MOST_COMBINATIONS:,} combinations, {MOST_DRAWS:,} draws and {MOST_SEEDS:,} seeds",
        ],
        "conformance.md": [
            "{} cases of aggregators, {} of attacks, and {}\ntrajectories".format(*counts),
        ],
        "recovery.md": [f"After `--restarts` ({Supervision().restarts}) losses"],
        "runs.md": [f"one row a step, {len(METRIC_COLUMNS)} columns"],
        "docker.md": [f"`BYZRAY_{name}_PORT`" for name in ("DASHBOARD", "PROMETHEUS", "GRAFANA")],
    }
    for page, texts in said.items():
        assert [text for text in texts if text not in TEXTS[page]] == [], page


def test_the_architecture_names_every_module() -> None:
    (tree,) = [block for block in blocks(TEXTS["architecture.md"], "") if block.startswith("byzray/")]
    packages = re.split(r"^(\w+)/ .*\n", tree, flags=re.MULTILINE)[1:]
    assert packages[::2] == ["byzray", "actors", "sweeps"]
    for package, listed in zip(packages[::2], packages[1::2], strict=True):
        names = {name for line in listed.splitlines() for name in re.findall(r"(?:^|  )([a-z_]+(?:\.py|/))", line)}
        there = {
            path.name + "/" * path.is_dir() for path in (ROOT / package).glob("[a-z]*") if path.suffix in ("", ".py")
        }
        assert names == there


def test_every_page_is_in_the_navigation() -> None:
    def pages(item: Any) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        else:
            for inner in item.values() if isinstance(item, dict) else item:
                yield from pages(inner)

    listed = list(pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert sorted(listed) == PAGES


class Loaded(HTMLParser):
    """What a page loads, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.anchors: set[str] = set()
        self.formulas: list[str] = []
        self._in_formula = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given["id"] or ""} if "id" in given else set()
        self._in_formula = given.get("class") == "arithmatex"
        loads = "src" in given or (
            tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect")
        )
        if loads:
            self.resources.append(given.get("src") or given.get("href") or "")

    def handle_data(self, data: str) -> None:
        if self._in_formula:
            self.formulas.append(data)
            self._in_formula = False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does but elsewhere."""
    pytest.importorskip("zensical", reason="needs zensical: pip install zensical, which `make test` does")
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, place / "docs")
    shutil.copy(ROOT / "zensical.toml", place)
    for name in ("byzray", "actors"):
        (place / name).symlink_to(ROOT / name)
    built = build(place)
    assert built.returncode == 0, built.stdout + built.stderr
    subprocess.run([sys.executable, DOCS / "reference/search.py", place / "build/site/search.json"], check=True)
    return place / "build/site"


def build(place: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)


def test_site_has_every_page_and_loads_nothing_from_elsewhere(site: Path) -> None:
    assert all((site / page).with_suffix(".html").exists() for page in PAGES)
    for path in site.rglob("*.html"):
        for resource in Loaded(path).resources:
            assert not re.match(r"(https?:)?//", resource), (path, resource)
            assert path.name == "404.html" or (path.parent / resource.split("?")[0]).exists(), (path, resource)
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)]*", sheet.read_text()), sheet


def test_links_into_the_site_hold(site: Path) -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for page, anchor in re.findall(r"\]\(docs/([\w/-]+)\.md(?:#([\w-]+))?\)", (ROOT / name).read_text()):
            assert not anchor or anchor in Loaded(site / f"{page}.html").anchors, (name, page, anchor)


def test_formulas_are_understood(site: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs Node.js, to run KaTeX outside of a browser: apt-get install nodejs")
    formulas = [formula[2:-2] for page in PAGES for formula in Loaded((site / page).with_suffix(".html")).formulas]
    script = "const katex = require(process.argv[1]);"
    script += "JSON.parse(require('fs').readFileSync(0)).forEach(f => katex.renderToString(f, {strict: 'error'}))"
    command = ["node", "-e", script, str(DOCS / "assets/katex/katex.min.js")]
    done = subprocess.run(command, input=json.dumps(formulas), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(formulas) > 100


def test_search_shows_formulas_as_text(site: Path) -> None:
    texts = {item["location"]: item["text"] for item in json.loads((site / "search.json").read_text())["items"]}
    assert "By default f is the number that attack" in texts["mathematics.html#notation"]
    assert "deviation / norm = " in texts["guessing-game.html#from-numbers-to-gradients"]
    assert not [
        location for location, text in texts.items() if re.search(r"\\[(\[a-z]", re.sub("<code>.*?</code>", "", text))
    ]


class Copied(HTMLParser):
    """What the copy buttons of a page copy, where that is not the block itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts += [value or "" for name, value in attrs if name == "data-copy"]


@pytest.mark.parametrize("page", ["docker.md", "cluster.md", "setups.md", "runs.md"])
def test_copy_buttons_copy_commands_alone(site: Path, page: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium, which shows the site, is not installed")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    address = (site / page).with_suffix(".html").as_uri()
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
    shown = [re.findall(r"^\$ (.*(?:(?<=\\)\n.*)*)", block, re.MULTILINE) for block in blocks(TEXTS[page], "console")]
    uncommented = ["\n".join(re.sub(r"\s+# .*", "", line) for line in lines) for lines in shown]
    assert Copied(done.stdout).texts == uncommented


def test_pictures_of_the_dashboards_open_in_full_size() -> None:
    for _, text, path in re.findall(r"^(.*)!\[([^]]*)\]\((tour/\w+\.png)\)", TEXTS["dashboard.md"], re.MULTILINE):
        assert f"[![{text}]({path})]({path})" in TEXTS["dashboard.md"]


def test_broken_links_fail_the_build(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="needs zensical: pip install zensical, which `make test` does")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Home\n\n[away](index.md#nowhere)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "broken"\n')
    assert build(tmp_path).returncode != 0
