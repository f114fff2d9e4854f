"""What panels and dashboards have in common: their look and their queries.

The form of the queries follows from three properties of Ray's export:

- A gauge is forgotten about 20 s after it was last set. So the last value of what has ended is looked for in the whole
  range.
- Each process exports its own series, and a run that is resumed is exported by another one. So processes are
  aggregated away.
- A counter appears with its first value, which `increase` does not see. So counts are read as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    FieldColor,
    QueryVariable,
    Row,
    TextBoxVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TableBarGaugeCellOptions,
    TableColoredBackgroundCellOptions,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# Ray's dashboard opens Grafana's with the name of its data source in `var-datasource`.
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

# The Ray dashboard; add `?var-ray=URL` to a dashboard's address where it is elsewhere.
RAY = "http://localhost:8265"

CLOCK = units.DurationInHoursMinutesSeconds

# Colours from a value on; the first is for all below the second.
Steps = Sequence[tuple[float | None, str]]
LATE: Steps = ((None, "green"), (60, "orange"), (300, "red"))  # seconds
ANY: Steps = ((None, "green"), (1, "orange"))
PLAIN: Steps = ((None, "text"),)


def thresholds(steps: Steps) -> ThresholdsConfig:
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(value, color) for value, color in steps])


def fixed(color: str) -> DynamicConfigValue:
    return DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


def begin(panel: Any, title: str, about: str, span: int, height: int) -> Any:
    return panel.title(title).description(about).datasource(SOURCE).span(span).height(height)


def ask(panel: Any, queries: Sequence[tuple[str, str]], adjust: Callable[[Any], Any] = lambda query: query) -> Any:
    """Add (legend, expression) queries to a panel."""
    for letter, (legend, expr) in zip("ABCDEFGHIJ", queries, strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expr).legend_format(legend or "__auto").datasource(SOURCE)
        panel.with_target(adjust(query))
    return panel


def number(
    title: str,
    about: str,
    expr: str,
    unit: str,
    decimals: int = 0,
    *,
    legend: str = "",
    steps: Steps = PLAIN,
    span: int = 4,
    colors: dict[str, str] | None = None,
    texts: dict[str, ValueMappingResult] | None = None,
) -> Any:
    """The last value in the range, which outlives the process that reported it."""
    panel = begin(stat.Panel(), title, about, span, 4).unit(unit).decimals(decimals).thresholds(thresholds(steps))
    panel.no_value("–").color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.NONE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if texts:
        panel.mappings([ValueMap(texts)])
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [fixed(color)])
    return ask(panel, [(legend, expr)], lambda query: query.range())


def graph(
    title: str,
    about: str,
    queries: Sequence[tuple[str, str]],
    unit: str,
    decimals: int | None = None,
    *,
    span: int = 12,
    stacked: bool = False,
    top: float | None = None,
    logarithmic: bool = False,
    colors: dict[str, str] | None = None,
) -> Any:
    panel = begin(timeseries.Panel(), title, about, span, 8).unit(unit).draw_style(GraphDrawStyle.LINE).line_width(1)
    panel.fill_opacity(60 if stacked else 0).show_points(VisibilityMode.NEVER)
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"]))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    panel.color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    if decimals is not None:
        panel.decimals(decimals)
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    else:
        panel.min(0)
    if top is not None:
        panel.max(top)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [fixed(color)])
    return ask(panel, queries, lambda query: query.range())


@dataclass(frozen=True)
class Column:
    """A column of a table: its query, and how its values look."""

    title: str
    expr: str
    unit: str = units.Short
    decimals: int = 0
    look: dict[str, Any] = field(default_factory=dict)

    def properties(self) -> list[DynamicConfigValue]:
        shown = {"unit": self.unit, "decimals": self.decimals, **self.look}
        return [DynamicConfigValue(name, value) for name, value in shown.items()]


BAR = {
    "custom.cellOptions": TableBarGaugeCellOptions(BarGaugeDisplayMode.BASIC),
    "min": 0,
    "max": 1,
    "color": {"mode": "continuous-RdYlGr"},
}


def coloured(steps: Steps) -> dict[str, Any]:
    return {"custom.cellOptions": TableColoredBackgroundCellOptions(), "thresholds": thresholds(steps).build()}


def rows(
    title: str,
    about: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    sort: str,
    *,
    ascending: bool = False,
    span: int = 24,
    height: int = 9,
) -> Any:
    """A table with a row for each combination of labels."""
    panel = begin(table.Panel(), title, about, span, height).no_value("none").filterable(True)
    ask(
        panel,
        [("", column.expr) for column in columns],
        lambda query: query.instant().format(PromQueryFormat.TABLE),
    )
    # Grafana calls the values of a lone query "Value".
    names = {f"Value #{letter}": column.title for letter, column in zip("ABCDEFGHIJ", columns, strict=False)}
    order = [*labels, *names] if len(columns) > 1 else [*labels, "Value"]
    renamed = names if len(columns) > 1 else {"Value": columns[0].title}
    panel.with_transformation(DataTransformerConfig("merge", options={}))
    options = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": renamed,
    }
    panel.with_transformation(DataTransformerConfig("organize", options=options))
    for column in columns:
        panel.override_by_name(column.title, column.properties())
    if "run" in labels:
        url = "/d/byzray-run?var-run=${__value.raw:percentencode}&${sweep:queryparam}&${__url_time_range}"
        links = [{"title": "Look into this run", "url": url}]
        panel.override_by_name("run", [DynamicConfigValue("links", links), DynamicConfigValue("custom.minWidth", 380)])
    return panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(not ascending)])


def bars(title: str, about: str, legend: str, expr: str, unit: str, decimals: int, steps: Steps, span: int) -> Any:
    panel = begin(bargauge.Panel(), title, about, span, 8).unit(unit).decimals(decimals).thresholds(thresholds(steps))
    panel.min(0).no_value("none").orientation(VizOrientation.HORIZONTAL).display_mode(BarGaugeDisplayMode.BASIC)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return ask(panel, [(legend, expr)], lambda query: query.instant())


def variable(name: str, label: str, metric: str, everything: bool) -> QueryVariable:
    query: dict[str, object] = {
        "query": f"label_values({metric}, {name})",
        "refId": "PrometheusVariableQueryEditor-VariableQuery",
    }
    built = QueryVariable(name).label(label).query(query).datasource(SOURCE).sort(VariableSort.NATURAL_ASC)
    built.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    if everything:
        built.include_all(True).all_value(".*").current(VariableOption(True, "All", "$__all"))
    return built


def dashboard(
    name: str, about: str, other: str, variables: Sequence[QueryVariable], content: dict[str, list[Any]]
) -> Dashboard:
    """A dashboard of rows of panels, with links to the other one and to Ray's."""
    built = Dashboard(f"byzray {name}").uid(f"byzray-{name}").description(about).tags(["byzray"])
    built.time("now-30m", "now").refresh("10s").tooltip(DashboardCursorSync.CROSSHAIR).readonly()
    source = DatasourceVariable("datasource").label("Data source").type("prometheus")
    built.with_variable(source.hide(VariableHide.HIDE_VARIABLE))
    for each in variables:
        built.with_variable(each)
    ray = TextBoxVariable("ray").label("Ray dashboard").default_value(RAY).current(VariableOption(True, RAY, RAY))
    built.with_variable(ray.hide(VariableHide.HIDE_VARIABLE))
    to_other = DashboardLink(f"byzray {other}").icon("dashboard").url(f"/d/byzray-{other}?${{sweep:queryparam}}")
    built.link(to_other.type(DashboardLinkType.LINK).keep_time(True))
    for page in ("jobs", "actors", "cluster"):
        to_ray = DashboardLink(f"Ray: {page}").icon("external link").url(f"${{ray}}/#/{page}")
        built.link(to_ray.type(DashboardLinkType.LINK).target_blank(True))
    for title, panels in content.items():
        built.with_row(Row(title))
        for panel in panels:
            built.with_panel(panel)
    return built


def newest(series: str, by: str, window: str = "$__range") -> str:
    """The last values in a window, from the process that reported last."""
    last = f"topk by ({by}) (1, max_over_time(timestamp({series})[{window}:5s]))"
    return f"max by ({by}) (last_over_time({series}[{window}]) and {last})"
