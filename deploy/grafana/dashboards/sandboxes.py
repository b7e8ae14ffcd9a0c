"""Is there enough ahead, where do sessions get their sandboxes, what does a start take, how do sandboxes end."""

from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import (
    BYTES,
    COUNT,
    PER_MINUTE,
    SECONDS,
    SHARE,
    Panel,
    board,
    graph,
    mean,
    per_minute,
    quantile,
    quantiles,
    rate,
)

POOL = '{pool=~"$pool"}'
TEMPLATE = 'template=~"$template"'


def dashboard() -> Dashboard:
    return board(
        "sandboxes",
        "Sandboxes and pools",
        "Is there enough ahead, where do sessions get their sandboxes, what does a start take, how do they end?",
        [
            ("Pools", pools()),
            ("Sessions get a sandbox (all pools)", claims()),
            ("Starts", starts()),
            ("In use, and the end", ends()),
        ],
        ["pool of kernelbox_pool_target", "template of kernelbox_sandboxes"],
    )


def pools() -> list[Panel]:
    return [
        graph(
            "Warm, against what the pool wants",
            "Ready at 0 with more wanted: sessions wait for starts. KernelboxPoolEmpty.",
            [
                (f"sum by (pool) (kernelbox_pool_ready{POOL})", "{{pool}} ready"),
                (f"sum by (pool) (kernelbox_pool_target{POOL})", "{{pool}} wanted"),
            ],
            COUNT,
            dashed="wanted",
        ),
        graph(
            "Starting, and waiting for a pod",
            "Starting: warm ones to be. Waiting: sessions' own that have no pod yet, as the pool is at its `limit` "
            "or `maxPending`. KernelboxSandboxesStuck.",
            [
                (f"sum by (pool) (kernelbox_pool_pending{POOL})", "{{pool}} starting"),
                (f"sum by (pool) (kernelbox_pool_queued{POOL})", "{{pool}} waiting"),
            ],
            COUNT,
        ),
        graph(
            "With sessions",
            "Sandboxes of the pool's template that sessions have. Near `limit`, sessions wait: raise it.",
            [(f"sum by (pool) (kernelbox_pool_claimed{POOL})", "{{pool}}")],
            COUNT,
            width=4,
        ),
        graph(
            "Starts fail",
            "1: the last starts failed, and one is tried at a time. Mostly the template: KernelboxPoolDegraded.",
            [(f"max by (pool) (kernelbox_pool_degraded{POOL})", "{{pool}}")],
            COUNT,
            width=4,
            limits=[(1, "red")],
            top=1,
        ),
    ]


def claims() -> list[Panel]:
    warm = rate('kernelbox_acquire_seconds_count{source="warm"}')
    new = rate('kernelbox_acquire_seconds_count{source=~"warm|cold"}')
    return [
        graph(
            "By where they came from",
            "Warm: a claim, one write. Cold: made for the session. Existing: the session had it, and a gateway took "
            "it up again.",
            [(per_minute("kernelbox_acquire_seconds_count", "source"), "{{source}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
        graph(
            "Found one warm",
            "Share of new sandboxes that were there already. It falls: raise `min` or `max` of the pool. "
            "KernelboxPoolEmpty.",
            [(f"{warm} / {new}", "warm")],
            SHARE,
            width=6,
            top=1,
        ),
        graph(
            "Time until it is given",
            "In the controller. A slow claim is a slow Kubernetes API (Internals). KernelboxClaimsBurnFast: warm "
            "above 1 s.",
            [
                (quantile(0.5, 'kernelbox_acquire_seconds{source=~"warm|cold"}', "source"), "{{source}} p50"),
                (quantile(0.99, 'kernelbox_acquire_seconds{source=~"warm|cold"}', "source"), "{{source}} p99"),
            ],
            SECONDS,
            logarithmic=True,
            width=6,
        ),
        graph(
            "Without one",
            "Requests that ended without a sandbox. start_failed, other: KernelboxSandboxesRefused. The others are "
            "no failures of ours: superseded by a later one, lost before, invalid, asked of a controller that was "
            "shutting down.",
            [(per_minute("kernelbox_acquire_failures_total", "reason"), "{{reason}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
    ]


def starts() -> list[Panel]:
    return [
        graph(
            "From pod to first answer",
            "What a cold start takes, by template. It grows: which stage, says the panel beside.",
            quantiles(f"kernelbox_sandbox_start_seconds{{{TEMPLATE}}}", "template", (0.5, 0.95)),
            SECONDS,
            width=6,
        ),
        graph(
            "Where the time of a start goes",
            "Mean by stage. queued: the pool's limits. scheduled: no room on nodes. pulled: image and registry. "
            "kernel_ready: the supervisor. KernelboxSandboxesStuck.",
            [(mean(f"kernelbox_sandbox_stage_seconds{{{TEMPLATE}}}", "stage"), "{{stage}}")],
            SECONDS,
            stacked=True,
            width=6,
        ),
        graph(
            "Oldest that is starting",
            "Age by template. KernelboxSandboxesStuck from 10 minutes.",
            [(f"max by (template) (kernelbox_sandbox_pending_age_seconds{{{TEMPLATE}}})", "{{template}}")],
            SECONDS,
            width=6,
            limits=[(600, "red")],
        ),
        graph(
            "Steps of the supervisor's start",
            "Mean, as supervisors say themselves. Slow everywhere: processors of nodes, or the image's own imports.",
            [(mean("kernelbox_supervisor_start_seconds", "step"), "{{step}}")],
            SECONDS,
            stacked=True,
            width=6,
        ),
    ]


def ends() -> list[Panel]:
    return [
        graph(
            "Sandboxes",
            "Those that have not ended, by phase and whether a session has them.",
            [
                (
                    f'sum by (phase, claimed) (kernelbox_sandboxes{{{TEMPLATE}, phase!="ended"}})',
                    "{{phase}}, claimed: {{claimed}}",
                )
            ],
            COUNT,
            stacked=True,
        ),
        graph(
            "Ended, by reason",
            "Released, IdleTimeout, ScaledDown, Stale are daily life. StartTimeout, ImageUnavailable: "
            "KernelboxPoolDegraded. OOMKilled: the template's memory. IdleUnsaved: KernelboxCheckpointsFail. "
            "NodeLost, Evicted: nodes.",
            [(per_minute("kernelbox_sandboxes_ended_total", "reason"), "{{reason}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Memory at the end",
            "Of all processes of a sandbox when it is reclaimed. Far below the template's limit: it asks for too much.",
            quantiles("kernelbox_sandbox_memory_bytes", shares=(0.5, 0.95)),
            BYTES,
        ),
        graph(
            "Asked whether they are idle",
            "By answer. retired_unsaved: no gateway saves its files (KernelboxCheckpointsFail). silent: "
            "KernelboxReclaimPaused.",
            [(per_minute("kernelbox_idle_asks_total", "answer"), "{{answer}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Unused, and still there",
            "Longer than idle timeout and grace. KernelboxSandboxesOverdue.",
            [(f"sum by (template) (kernelbox_sandboxes_overdue{{{TEMPLATE}}})", "{{template}}")],
            COUNT,
            limits=[(1, "red")],
            top=1,
        ),
        graph(
            "Silent supervisors",
            "Did not answer when asked last. When they are many, reclaiming is paused (1): KernelboxReclaimPaused.",
            [
                ("sum(kernelbox_supervisors_silent)", "silent"),
                ("max(kernelbox_reclaim_paused)", "reclaiming is paused"),
            ],
            COUNT,
            top=1,
        ),
    ]
