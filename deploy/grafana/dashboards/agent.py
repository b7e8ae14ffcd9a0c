"""Turns: how many, how long, what models and tools do in them, and what code does that they and clients run."""

from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import (
    PER_MINUTE,
    PER_SECOND,
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
    tile,
)


def dashboard() -> Dashboard:
    return board(
        "agent",
        "Agent",
        "Turns: how many, how long, what fails in them; the model, its tokens and tools; executions.",
        [
            ("Turns", turns()),
            ("The model", model()),
            ("Tools and executions", executions()),
        ],
    )


def share(part: str, whole: str) -> str:
    """Of the last ten minutes, as the alerts look at it."""
    return f"sum(rate({part}[10m])) / sum(rate({whole}[10m]))"


def turns() -> list[Panel]:
    ended = "kernelbox_turn_seconds_count"
    errors, calls = "sum(rate(kernelbox_model_errors_total[10m]))", "sum(rate(kernelbox_model_call_seconds_count[10m]))"
    return [
        tile("Running", "Turns that run now, of all gateways.", "sum(kernelbox_turns_running)", width=6),
        tile(
            "Failed, last 10 min",
            "Share of turns. KernelboxTurnsFail fires from 10 %.",
            share(f'{ended}{{outcome="failed"}}', ended),
            SHARE,
            limits=[(0.02, "orange"), (0.1, "red")],
            none="no turns",
            width=6,
        ),
        tile(
            "Calls of models that fail, last 10 min",
            "Each try counts. KernelboxModelErrors fires from 20 %.",
            f"{errors} / ({errors} + {calls})",
            SHARE,
            limits=[(0.05, "orange"), (0.2, "red")],
            none="no calls",
            width=6,
        ),
        tile(
            "First token, p95",
            "Time from a call of the model until its answer begins: what users see as silence.",
            quantile(0.95, "kernelbox_model_first_token_seconds"),
            SECONDS,
            limits=[(5, "orange"), (15, "red")],
            none="no calls",
            width=6,
        ),
        graph(
            "Turns, by how they ended",
            "failed: see the reasons beside, and KernelboxTurnsFail.",
            [(per_minute(ended, "outcome"), "{{outcome}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
        graph(
            "How long turns take",
            "Of those that were completed. Mostly the model (below) times the steps, and the code that runs.",
            quantiles('kernelbox_turn_seconds{outcome="completed"}', shares=(0.5, 0.95)),
            SECONDS,
            width=6,
        ),
        graph(
            "Failed, by reason",
            "model_...: KernelboxModelErrors. sandbox: KernelboxSandboxesRefused. internal: KernelboxStoreErrors.",
            [(per_minute("kernelbox_turn_failures_total", "reason"), "{{reason}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
        graph(
            "Ended by a limit",
            "These are answers that say so. iterations, time: work too large for a turn. repetition: a model that "
            "goes round in circles. docs/limits.md.",
            [(per_minute("kernelbox_turn_limits_total", "limit"), "{{limit}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
    ]


def model() -> list[Panel]:
    cached = rate('kernelbox_model_tokens_total{kind="cached_input"}')
    asked = rate('kernelbox_model_tokens_total{kind="input"}')
    return [
        graph(
            "First token",
            "From the call until the first piece of the answer. It grows with the length of what is sent, and with "
            "the provider's load.",
            quantiles("kernelbox_model_first_token_seconds", shares=(0.5, 0.95)),
            SECONDS,
        ),
        graph(
            "Whole calls",
            "Of those whose answer came whole. First token low and this high: long answers, or a slow model.",
            quantiles("kernelbox_model_call_seconds", shares=(0.5, 0.95)),
            SECONDS,
        ),
        graph(
            "Tokens",
            "As the provider counts and charges them. Cached input is a part of input, reasoning one of output.",
            [(rate("kernelbox_model_tokens_total", "kind"), "{{kind}}")],
            PER_SECOND,
        ),
        graph(
            "Calls that failed",
            "overloaded: your rate at the provider. denied: the key. refused: no such model, or credit. unreachable, "
            "silent: the way there. too_long: --model-context. KernelboxModelErrors.",
            [(per_minute("kernelbox_model_errors_total", "kind"), "{{kind}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Calls made again",
            "By how the one before had failed. Users wait longer, and mostly notice no more than that. "
            "KernelboxModelErrors.",
            [(per_minute("kernelbox_model_retries_total", "kind"), "{{kind}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Input from the provider's cache",
            "Share of input tokens, cheaper and quicker. 0: the provider does not say, or has no cache.",
            [(f"{cached} / {asked}", "cached")],
            SHARE,
            top=1,
        ),
    ]


def executions() -> list[Panel]:
    return [
        graph(
            "Calls of tools",
            "By whose tool it was. unknown: the model makes tools up.",
            [(per_minute("kernelbox_tool_calls_total", "tool"), "{{tool}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Calls of tools that failed",
            "python: code that raised, which models mend by themselves; a rise all the same is a worse model or a "
            "missing package. mcp, client: their servers.",
            [(per_minute('kernelbox_tool_calls_total{outcome="failed"}', "tool"), "{{tool}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Executions",
            "Of clients and of turns. error is the code's own. lost, not_run: sandboxes (Overview). failed: the "
            "supervisor's log.",
            [(per_minute("kernelbox_executions_total", "status"), "{{status}}")],
            PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Time until code begins",
            "had: the session had a sandbox. new: it waited for one (Sandboxes and pools).",
            [(quantile(0.95, "kernelbox_execution_wait_seconds", "sandbox"), "{{sandbox}} p95")],
            SECONDS,
            logarithmic=True,
        ),
        graph(
            "Where the time of executions goes",
            "Mean by stage. install: packages that the image could bring. queue: many executions in one context.",
            [(mean("kernelbox_execution_stage_seconds", "stage"), "{{stage}}")],
            SECONDS,
            stacked=True,
        ),
        graph(
            "Limits met, kernels that died, installs that failed",
            "memory, processes, disk: the template's limits (docs/limits.md). output: cut, and the code goes on. "
            "Installs: the package index, or egress (docs/egress.md).",
            [
                (per_minute("kernelbox_execution_limits_total", "limit"), "{{limit}}"),
                (per_minute("kernelbox_kernels_died_total"), "kernels died"),
                (per_minute('kernelbox_packages_installed_total{outcome="failed"}'), "installs failed"),
            ],
            PER_MINUTE,
            stacked=True,
        ),
    ]
