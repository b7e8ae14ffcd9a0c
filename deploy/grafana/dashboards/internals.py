"""What alerts lead to: the controller's passes, the Kubernetes API, calls, database and checkpoints, processes."""

from grafana_foundation_sdk.models.dashboard import Dashboard
from panels import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    JOBS,
    PER_MINUTE,
    PER_SECOND,
    SECONDS,
    SHARE,
    Panel,
    board,
    graph,
    per_minute,
    quantile,
    quantiles,
    rate,
)


def dashboard() -> Dashboard:
    return board(
        "internals",
        "Internals",
        "What alerts lead to: the controller's passes, the Kubernetes API, calls, database and checkpoints, processes.",
        [
            ("Controller and the Kubernetes API", controller()),
            ("Gateway", gateway()),
            ("Database and checkpoints", store()),
            ("Processes", processes()),
        ],
    )


def controller() -> list[Panel]:
    return [
        graph(
            "Passes of the leader",
            "Time over all that it knows, with the writes that came of it. It grows with sandboxes, and with a slow "
            "API server.",
            quantiles("kernelbox_reconcile_seconds"),
            SECONDS,
            logarithmic=True,
            width=6,
        ),
        graph(
            "Passes that left something",
            "To be done again, by the step that failed. A few in a restart of the API server; else the controller's "
            "log.",
            [(per_minute("kernelbox_reconcile_errors_total", "step"), "{{step}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
        graph(
            "Leads",
            "One line at 1, always the same unless a leader was lost. KernelboxNoLeader.",
            [("kernelbox_leader", "{{instance}}")],
            COUNT,
            width=6,
            top=1,
        ),
        graph(
            "Since the API server answered",
            "By replica; each asks every 3 s. KernelboxApiSilent if all are above 60 s.",
            [("time() - kernelbox_api_last_answer_timestamp_seconds", "{{instance}}")],
            SECONDS,
            width=6,
            limits=[(60, "red")],
            top=10,
        ),
        graph(
            "Writes",
            "To the Kubernetes API, by verb and resource.",
            [(rate("kernelbox_api_writes_total", "verb, resource"), "{{verb}} {{resource}}")],
            PER_SECOND,
            width=6,
        ),
        graph(
            "Writes that were not ok",
            "conflict, gone: somebody was faster, no failure. refused: quota, admission, rights. silent, failed: the "
            "API server. KernelboxApiWritesFail from 5 %.",
            [(per_minute('kernelbox_api_writes_total{outcome!="ok"}', "outcome"), "{{outcome}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
        graph(
            "Time of writes, p99",
            "patch sandboxes is the claim: it is what KernelboxClaimsBurnFast mostly comes from.",
            [(quantile(0.99, "kernelbox_api_write_seconds", "verb, resource"), "{{verb}} {{resource}}")],
            SECONDS,
            logarithmic=True,
            width=6,
        ),
        graph(
            "Watches that broke",
            "And were begun again, by resource. Now and then is normal; steadily: the API server or what is between.",
            [(per_minute("kernelbox_watch_failures_total", "resource"), "{{resource}}")],
            PER_MINUTE,
            stacked=True,
            width=6,
        ),
    ]


def gateway() -> list[Panel]:
    return [
        graph(
            "Calls",
            "The ten most frequent methods.",
            [(f"topk(10, {rate('kernelbox_requests_total', 'method')})", "{{method}}")],
            PER_SECOND,
        ),
        graph(
            "Time of calls, p99",
            "Streams take as long as they are followed: Execute, RunTurn and the like tell of what they carry. "
            "Others above 1 s: the database, or a sandbox.",
            [(quantile(0.99, "kernelbox_request_seconds", "method"), "{{method}}")],
            SECONDS,
            logarithmic=True,
        ),
        graph(
            "Going on now",
            "Open calls, streams among them; executions and turns.",
            [
                ("sum(kernelbox_requests_open)", "calls"),
                ("sum(kernelbox_executions_running)", "executions"),
                ("sum(kernelbox_turns_running)", "turns"),
            ],
            COUNT,
        ),
        graph(
            "Sessions in memory",
            "By whether they have a sandbox.",
            [("sum by (sandbox) (kernelbox_sessions)", "sandbox: {{sandbox}}")],
            COUNT,
            stacked=True,
        ),
        graph(
            "Sessions made and deleted",
            "More made than deleted: they stay in the database (--max-sessions).",
            [
                (per_minute("kernelbox_sessions_created_total"), "made"),
                (per_minute("kernelbox_sessions_deleted_total"), "deleted"),
            ],
            PER_MINUTE,
        ),
        graph(
            "Bytes of files",
            "Into workspaces and out of them, by calls.",
            [(rate("kernelbox_file_bytes_total", "direction"), "{{direction}}")],
            BYTES_PER_SECOND,
        ),
    ]


def store() -> list[Panel]:
    return [
        graph(
            "Time of the database, p99",
            "Each event of a turn waits for it. KernelboxStoreSlow from 500 ms: the volume.",
            [(quantile(0.99, "kernelbox_store_seconds", "operation"), "{{operation}}")],
            SECONDS,
            logarithmic=True,
            limits=[(0.5, "red")],
            width=5,
        ),
        graph(
            "Queries that failed",
            "Calls end with INTERNAL. Mostly a full or read-only volume. KernelboxStoreErrors.",
            [(per_minute("kernelbox_store_errors_total", "operation"), "{{operation}}")],
            PER_MINUTE,
            stacked=True,
            width=5,
        ),
        graph(
            "Checkpoints",
            "unchanged, fenced: nothing was to be saved. unreachable: the sandbox is gone. "
            "failed: files are at risk, KernelboxCheckpointsFail.",
            [(per_minute("kernelbox_checkpoint_seconds_count", "operation, outcome"), "{{operation}} {{outcome}}")],
            PER_MINUTE,
            stacked=True,
            width=5,
        ),
        graph(
            "Time of checkpoints, p95",
            "A restore is a part of what a session waits for its sandbox. Large: what is in workspaces. Slow: the "
            "bucket.",
            [(quantile(0.95, 'kernelbox_checkpoint_seconds{outcome="ok"}', "operation"), "{{operation}}")],
            SECONDS,
            width=5,
        ),
        graph(
            "Size of checkpoints, p95",
            "Of the files in them. What is larger than the workspace of the session's next template cannot be "
            "restored.",
            [(quantile(0.95, "kernelbox_checkpoint_bytes", "operation"), "{{operation}}")],
            BYTES,
            logarithmic=True,
            width=4,
        ),
    ]


def processes() -> list[Panel]:
    return [
        graph(
            "Memory",
            "In RAM. A steady rise that no load explains is a leak; the limits are the deployment's.",
            [(f"process_resident_memory_bytes{{{JOBS}}}", "{{job}} {{instance}}")],
            BYTES,
            width=6,
        ),
        graph(
            "Processors",
            "How many each program uses. More than a gateway's share of its node: calls, or large histories of turns.",
            [(f"rate(process_cpu_seconds_total{{{JOBS}}}[$__rate_interval])", "{{job}} {{instance}}")],
            COUNT,
            width=6,
        ),
        graph(
            "Files and connections, of what it may have open",
            "At 1 nothing new can be opened.",
            [(f"process_open_fds{{{JOBS}}} / process_max_fds{{{JOBS}}}", "{{job}} {{instance}}")],
            SHARE,
            width=6,
            limits=[(0.8, "red")],
            top=0.1,
        ),
        graph(
            "Threads",
            "Constant, but for a few that come and go with files.",
            [(f"process_threads{{{JOBS}}}", "{{job}} {{instance}}")],
            COUNT,
            width=6,
        ),
        graph(
            "Up for",
            "A fall is a restart: kubectl logs --previous. KernelboxTargetDown.",
            [(f"time() - process_start_time_seconds{{{JOBS}}}", "{{job}} {{instance}}")],
            SECONDS,
            width=6,
        ),
        graph(
            "Versions",
            "Programs by version. Two of one kind: an upgrade goes on, or stands still.",
            [("count by (job, version) (kernelbox_build_info)", "{{job}} {{version}}")],
            COUNT,
            width=6,
        ),
        graph(
            "Certificate and token end in",
            "Of each gateway, without those that it does not have. The token is of an hour and renewed each time. "
            "KernelboxCredentialEnds.",
            [("(kernelbox_credential_end_timestamp_seconds > 0) - time()", "{{credential}} {{instance}}")],
            SECONDS,
            width=6,
        ),
        graph(
            "Age of the signing key",
            "Of the key that signs sandboxes' tokens; there is a new one each day. KernelboxSigningKeyOld from 2 days.",
            [("time() - (kernelbox_signing_key_created_timestamp_seconds > 0)", "{{instance}}")],
            SECONDS,
            width=6,
            limits=[(2 * 86400, "red")],
        ),
    ]
