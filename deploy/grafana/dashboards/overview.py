"""What to look at first on call: do users get a sandbox, how fast, what fails, what is nearly full, the objective."""

from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import (
    COUNT,
    JOBS,
    PER_MINUTE,
    PER_SECOND,
    SECONDS,
    SHARE,
    Panel,
    board,
    graph,
    or_zero,
    per_minute,
    quantile,
    quantiles,
    rate,
    tile,
)

#: What alerts take for an error of the server, and for a limit that was met.
BROKEN = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|5.."'
REFUSED = 'code=~"RESOURCE_EXHAUSTED|429"'
#: Requests for a sandbox that were to have one and got none.
NO_SANDBOX = 'kernelbox_acquire_failures_total{reason=~"start_failed|other"}'
#: Claims, and those of them that took no longer than the objective.
WARM = 'kernelbox_acquire_seconds_count{source="warm"}'
IN_TIME = 'kernelbox_acquire_seconds_bucket{source="warm", le="1"}'
#: Of claims that may fail or take longer than a second.
BUDGET = 0.001


def dashboard() -> Dashboard:
    return board(
        "overview",
        "Overview",
        "Can users get a sandbox now, how fast, what fails, what is nearly full, how is the objective? "
        "docs/runbooks.md",
        [
            ("Now", now()),
            ("How fast, and what fails", flow()),
            ("Room, and the objective: 99.9 % of claims within 1 s", room()),
        ],
    )


def now() -> list[Panel]:
    failed = "kernelbox:claims_failed:rate5m"
    return [
        tile(
            "Alerts that fire",
            "Kernelbox' alerts of all severities. Which: the panel Alerts below; what to do: docs/runbooks.md, by "
            "their names.",
            or_zero('count(ALERTS{alertname=~"Kernelbox.+", alertstate="firing"})'),
            limits=[(1, "red")],
        ),
        tile(
            "Programs that are down",
            "Gateways and controllers that cannot be scraped. Without its gateway no call is answered. "
            "KernelboxTargetDown.",
            or_zero(f"count(up{{{JOBS}}} == 0)"),
            limits=[(1, "red")],
        ),
        tile(
            "Controllers that lead",
            "Exactly one. With none, pools are not filled and nothing is reclaimed; claims go on. KernelboxNoLeader.",
            or_zero("sum(kernelbox_leader)"),
            limits=[(1, "green"), (2, "red")],
            first="red",
        ),
        tile(
            "Empty pools",
            "Pools that are to have warm sandboxes and have none: their sessions wait for a pod to start. "
            "KernelboxPoolEmpty.",
            or_zero("count(kernelbox_pool_ready == 0 and kernelbox_pool_target > 0)"),
            limits=[(1, "red")],
        ),
        tile(
            "Waiting for a sandbox",
            "Requests that wait now. A few that go on are cold starts; if they grow, see Sandboxes and pools. "
            "KernelboxSandboxesStuck.",
            "sum(kernelbox_acquires_waiting)",
            limits=[(5, "orange"), (25, "red")],
        ),
        tile(
            "Refused, last 5 min",
            "Share of requests for a sandbox that got none. KernelboxSandboxesRefused fires from 10 %.",
            f"{failed} / ({failed} + sum(rate(kernelbox_acquire_seconds_count[5m])))",
            SHARE,
            limits=[(0.01, "orange"), (0.1, "red")],
            none="no requests",
        ),
        tile(
            "Claim, p99",
            "Time until a session has a warm sandbox. The objective is 1 s. KernelboxClaimsBurnFast.",
            quantile(0.99, 'kernelbox_acquire_seconds{source="warm"}'),
            SECONDS,
            limits=[(0.5, "orange"), (1, "red")],
            none="no claims",
        ),
        tile(
            "Budget spent in 3 days",
            "Of the budget of 30 days for slow and failed claims (1 in 1,000): a tenth is as planned. "
            "KernelboxClaimsBurnSlow.",
            f"kernelbox:claim_errors:ratio_rate3d / {BUDGET} * 3 / 30",
            SHARE,
            limits=[(0.1, "orange"), (0.3, "red")],
            none="no claims",
        ),
    ]


def flow() -> list[Panel]:
    failing, limited = (
        f"({or_zero(rate(f'kernelbox_requests_total{{{code}}}'))}) / {rate('kernelbox_requests_total')}"
        for code in (BROKEN, REFUSED)
    )
    return [
        graph(
            "Sandboxes given to sessions",
            "By where they came from: warm ones are there at once, cold ones are started. Many cold: raise the "
            "pool's `min` (KernelboxPoolEmpty). Refused: KernelboxSandboxesRefused.",
            [
                (per_minute("kernelbox_acquire_seconds_count", "source"), "{{source}}"),
                (per_minute(NO_SANDBOX), "refused"),
            ],
            PER_MINUTE,
        ),
        graph(
            "Time until a session has its sandbox",
            "What users wait, with settings and files. Below a second: claims. Seconds: starts, or files that are "
            "brought back. KernelboxClaimsBurnFast, KernelboxPoolEmpty.",
            quantiles("kernelbox_sandbox_wait_seconds"),
            SECONDS,
            logarithmic=True,
        ),
        graph(
            "Calls that fail",
            "Share of all calls of gateways. Errors of the server: KernelboxGatewayErrors from 1 %. Refused, as a "
            "limit was reached: KernelboxGatewayRefuses from 5 %.",
            [(failing, "errors of the server"), (limited, "refused by a limit")],
            SHARE,
            limits=[(0.01, "red")],
            top=0.02,
        ),
        graph(
            "Calls by code, but for OK",
            "What clients are told. INTERNAL, UNKNOWN, DATA_LOSS and 5xx are ours; UNAVAILABLE mostly a sandbox or a "
            "model; the rest mostly the callers'. KernelboxGatewayErrors.",
            [(per_minute('kernelbox_requests_total{code!~"OK|2.."}', "code"), "{{code}}")],
            PER_MINUTE,
        ),
        graph(
            "Sandboxes lost under sessions",
            "Variables are gone, files come back from the last checkpoint. OOMKilled: the template's memory. "
            "Evicted, NodeLost: nodes. Failed, Lost: the controller's log.",
            [
                (
                    per_minute(
                        'kernelbox_sandboxes_left_total{reason!~"IdleTimeout|TemplateChanged|Deleted"}', "reason"
                    ),
                    "{{reason}}",
                )
            ],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Executions and turns that fail",
            "Not for what the code says, but for what is around it. lost, not_run: sandboxes. failed turns: Agent, "
            "and KernelboxTurnsFail.",
            [
                (
                    per_minute('kernelbox_executions_total{status=~"failed|lost|not_run|kernel_died"}', "status"),
                    "{{status}}",
                ),
                (per_minute('kernelbox_turn_seconds_count{outcome="failed"}'), "failed turns"),
            ],
            PER_MINUTE,
            stacked=True,
        ),
    ]


def room() -> list[Panel]:
    in_use = 'sum by (instance) (kernelbox_sessions{sandbox!="none"})'
    burns = [
        (f"kernelbox:claim_errors:ratio_rate{window} / {BUDGET}", f"{window}, {severity} from {limit}")
        for window, severity, limit in (
            ("1h", "critical", 14.4),
            ("6h", "critical", 6),
            ("1d", "warning", 3),
            ("3d", "warning", 1),
        )
    ]
    return [
        graph(
            "Warm sandboxes",
            "Of all pools. Ready far below wanted while some wait: Sandboxes and pools says why. KernelboxPoolEmpty, "
            "KernelboxPoolDegraded.",
            [
                ("sum(kernelbox_pool_ready)", "ready"),
                ("sum(kernelbox_pool_target)", "wanted"),
                ("sum(kernelbox_pool_pending)", "starting"),
                ("sum(kernelbox_acquires_waiting)", "sessions that wait"),
            ],
            COUNT,
            dashed="wanted",
        ),
        graph(
            "Sandboxes of the gateway, of what it may have",
            "At 100 % new ones are refused with NO_CAPACITY. Raise --max-sandboxes, or shorten idle timeouts. "
            "KernelboxGatewayFull from 90 %.",
            [
                (f"{in_use} / sum by (instance) (kernelbox_sandbox_limit)", "{{instance}}"),
            ],
            SHARE,
            limits=[(0.9, "red")],
            top=1,
        ),
        graph(
            "Calls refused by limits",
            "By the limit that a tenant met; the flag has its name (--max-...), a key may have its own. "
            "KernelboxGatewayRefuses.",
            [
                (per_minute("kernelbox_limit_refusals_total", "limit"), "{{limit}}"),
                (per_minute('kernelbox_sandbox_failures_total{reason="no_capacity"}'), "no capacity"),
            ],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Burn rate",
            "How many times faster than planned the month's budget is spent, by window. 14.4 is a month in two days. "
            "KernelboxClaimsBurnFast, KernelboxClaimsBurnSlow.",
            burns,
            COUNT,
            limits=[(1, "orange"), (14.4, "red")],
            top=2,
            width=8,
        ),
        graph(
            "Claims",
            "Warm sandboxes that became a session's within the objective, and those that did not or failed.",
            [
                (rate(IN_TIME), "within 1 s"),
                (f"{rate(WARM)} - {rate(IN_TIME)}", "longer"),
                (rate(NO_SANDBOX), "failed"),
            ],
            PER_SECOND,
            stacked=True,
        ),
        graph(
            "Alerts",
            "Those that fire, and those that will unless it gets better (pending). Each has its place in "
            "docs/runbooks.md.",
            [('sum by (alertname, alertstate) (ALERTS{alertname=~"Kernelbox.+"})', "{{alertname}} {{alertstate}}")],
            COUNT,
            stacked=True,
        ),
    ]
