"""What the dashboards are built of: queries of Kernelbox' metrics, tiles, graphs, and the frame around them.

What is asked for is said by each dashboard's own module.
"""

from collections.abc import Iterable

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models

#: The variable that every dashboard begins with.
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
#: The scrapes that are Kernelbox'.
JOBS = 'job=~"kernelbox-(controller|gateway-admin)"'

# Units, in Grafana's words.
COUNT, SHARE, SECONDS, BYTES = "short", "percentunit", "s", "bytes"
PER_SECOND, PER_MINUTE, BYTES_PER_SECOND = "cps", "cpm", "binBps"

#: What is asked, and how its lines are called.
Query = tuple[str, str]
Panel = stat.Panel | timeseries.Panel


def rate(metric: str, by: str = "") -> str:
    """Per second, of a counter with or without labels."""
    return f"{total(by)}(rate({metric}[$__rate_interval]))"


def per_minute(metric: str, by: str = "") -> str:
    """For what is rare."""
    return f"60 * {rate(metric, by)}"


def total(by: str = "") -> str:
    return f"sum by ({by}) " if by else "sum"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """`histogram` as it is documented, with or without labels: `kernelbox_request_seconds{service="x"}`."""
    labels = f"le, {by}" if by else "le"
    # Of what did not happen there is no quantile, and it shall be no line either.
    happened = " > 0" if by else ""
    return f"histogram_quantile({share}, {rate(_part(histogram, 'bucket'), labels)}){happened}"


def mean(histogram: str, by: str = "") -> str:
    return f"{rate(_part(histogram, 'sum'), by)} / {rate(_part(histogram, 'count'), by)}"


def _part(histogram: str, part: str) -> str:
    name, brace, labels = histogram.partition("{")
    return f"{name}_{part}{brace}{labels}"


def or_zero(expression: str) -> str:
    """For what is not there while all is well."""
    return f"({expression}) or vector(0)"


def quantiles(histogram: str, by: str = "", shares: Iterable[float] = (0.5, 0.95, 0.99)) -> list[Query]:
    labels = f" {{{{{by}}}}}" if by else ""
    return [(quantile(share, histogram, by), f"p{round(share * 100)}{labels}") for share in shares]


def _target(query: Query, number: int, instant: bool) -> prometheus.Dataquery:
    expression, legend = query
    target = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
    target = target.datasource(SOURCE).editor_mode("code")
    return target.instant() if instant else target.range()


def _steps(limits: Iterable[tuple[float, str]], first: str = "green") -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=first), *(models.Threshold(value=at, color=it) for at, it in limits)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def tile(
    title: str,
    tells: str,
    expression: str,
    unit: str = COUNT,
    *,
    limits: Iterable[tuple[float, str]] = (),
    first: str = "green",
    none: str = "none",
    width: int = 3,
) -> Panel:
    """One figure, as it is now.

    `limits`: from where it has which colour, and `first` below; `none`: what is said where there is no value.
    """
    return (
        stat.Panel()
        .title(title)
        .description(tells)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .no_value(none)
        .mappings([models.SpecialValueMap(options=_special(none))])
        .thresholds(_steps(limits, first))
        .color_mode(options.BigValueColorMode.BACKGROUND if limits else options.BigValueColorMode.NONE)
        .graph_mode(options.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target((expression, ""), 0, instant=True))
    )


def _special(text: str) -> models.DashboardSpecialValueMapOptions:
    """Nothing divided by nothing is no number."""
    result = models.ValueMappingResult(text=text, color="text")
    return models.DashboardSpecialValueMapOptions(match=models.SpecialValueMatch.NULL_AND_NAN, result=result)


def graph(
    title: str,
    tells: str,
    queries: list[Query],
    unit: str = COUNT,
    *,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    logarithmic: bool = False,
    limits: Iterable[tuple[float, str]] = (),
    dashed: str = "",
    top: float | None = None,
) -> Panel:
    """Lines over time.

    `limits`: where it gets serious; `dashed`: the names of lines that say what should be; `top`: of the axis, at least.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(tells)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(options.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(options.TooltipDisplayMode.MULTI)
            .sort(options.SortOrder.DESCENDING)
            .hide_zeros(True)
        )
    )
    if logarithmic:
        logarithm = common.ScaleDistributionConfig().type(options.ScaleDistribution.LOG).log(10)
        panel = panel.scale_distribution(logarithm)
    else:
        panel = panel.min(0)
    if top is not None:
        panel = panel.axis_soft_max(top)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_steps(limits, "transparent")).thresholds_style(style)
    if dashed:
        line = models.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]})
        empty = models.DynamicConfigValue(id_val="custom.fillOpacity", value=0)
        panel = panel.override_by_regexp(f"/{dashed}/", [line, empty])
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(query, number, instant=False))
    return panel


def board(
    name: str, title: str, tells: str, rows: list[tuple[str, list[Panel]]], variables: Iterable[str] = ()
) -> models.Dashboard:
    """`name`: of its file, and in its uid; `variables`: labels to choose by, each `of` a metric that has them."""
    made = (
        dashboard.Dashboard(f"Kernelbox / {title}")
        .uid(f"kernelbox-{name}")
        .description(tells)
        .tags(["kernelbox"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(
            dashboard.DashboardLink("Kernelbox")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["kernelbox"])
            .keep_time(True)
        )
    )
    for variable in variables:
        label, _, metric = variable.partition(" of ")
        made = made.with_variable(_choice(label, metric))
    for row, panels in rows:
        made = made.with_row(dashboard.Row(row))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    for number, panel in enumerate(built.panels or []):
        panel.id_val = number + 1
    return built


def _choice(label: str, metric: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )
