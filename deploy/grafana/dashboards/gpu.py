"""Accelerators: held, idle, waited for, and what that costs; by template."""

from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import COUNT, SECONDS, SHARE, Panel, board, graph, mean, quantiles, tile

TEMPLATE = 'template=~"$template"'
HELD = f"kernelbox_accelerators_held{{{TEMPLATE}}}"
IDLE = f"kernelbox_accelerators_idle{{{TEMPLATE}}}"
#: Sessions' sandboxes that are not ready, of templates with accelerators.
WAITING = (
    f'(sum by (template) (kernelbox_sandboxes{{{TEMPLATE}, phase="pending", claimed="true"}}) and on (template) {HELD})'
)


def dashboard() -> Dashboard:
    return board(
        "gpu",
        "GPU",
        "Accelerators: how many are held, idle and waited for, by template. A resource claim counts as one.",
        [("Now", now()), ("By template", by_template())],
        ["template of kernelbox_accelerators_held"],
    )


def now() -> list[Panel]:
    return [
        tile("Held now", "Devices that pods of sandboxes have.", f"sum({HELD})", width=6),
        tile(
            "Idle now",
            "Of them, those that are nobody's or that their session has not used for the idle timeout. "
            "KernelboxAcceleratorsIdle fires after an hour.",
            f"sum({IDLE})",
            limits=[(1, "orange")],
            width=6,
        ),
        tile(
            "Sessions that wait now",
            "For a sandbox with an accelerator to start: for a free one, a node, an image. KernelboxSandboxesStuck "
            "after 10 minutes.",
            f"sum({WAITING})",
            limits=[(1, "orange")],
            width=6,
        ),
        tile(
            "Idle device-hours",
            "Over the time that is shown: what was paid for and not used. Shorten `lifecycle.idleTimeout`, or lower "
            "the pool's `min`.",
            f"sum(sum_over_time({IDLE}[$__range:30s])) / 120",
            width=6,
        ),
    ]


def by_template() -> list[Panel]:
    return [
        graph(
            "Held",
            "All of what the nodes have: new sessions wait. Then: more nodes, or shorter idle timeouts.",
            [(f"sum by (template) ({HELD})", "{{template}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "Idle",
            "Warm ones of a pool with `min` above 0, and claimed ones that nobody uses. KernelboxAcceleratorsIdle.",
            [(f"sum by (template) ({IDLE})", "{{template}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "Idle, of those held",
            "Near 1 for long: paid for nothing. KernelboxAcceleratorsIdle.",
            [(f"sum by (template) ({IDLE}) / (sum by (template) ({HELD}) > 0)", "{{template}}")],
            SHARE,
            top=1,
        ),
        graph(
            "Sessions that wait",
            "Whoever waits hears the scheduler's words. KernelboxSandboxesStuck.",
            [(WAITING, "{{template}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "Oldest that is starting",
            "How long the one has waited that waits longest. KernelboxSandboxesStuck from 10 minutes.",
            [(f"kernelbox_sandbox_pending_age_seconds{{{TEMPLATE}}} and on (template) {HELD}", "{{template}}")],
            SECONDS,
            limits=[(600, "red")],
        ),
        graph(
            "Where the time of a start goes",
            "Mean by stage. scheduled: no free accelerator, or a node that is being made. pulled: images with CUDA "
            "are large; keep them on the nodes.",
            [(mean(f"kernelbox_sandbox_stage_seconds{{{TEMPLATE}}}", "stage"), "{{stage}}")],
            SECONDS,
            stacked=True,
        ),
        graph(
            "From pod to first answer",
            "What a session waits that finds none warm.",
            quantiles(f"kernelbox_sandbox_start_seconds{{{TEMPLATE}}}", "template", (0.5, 0.95)),
            SECONDS,
        ),
    ]
