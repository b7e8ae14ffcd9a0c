//! Turns, what their models do, and the tools that are called in them.
use kernelbox_metrics::{Book, Counters, Error, Histogram, Histograms, IntGauge, REQUEST, START, labels};
use kernelbox_proto::v1::ErrorCode;

use crate::model::{Failure, Usage};

labels! {
    /// How a turn ended.
    pub(crate) enum Outcome = "outcome" {
        Completed = "completed",
        Cancelled = "cancelled",
        Failed = "failed",
    }
}

labels! {
    /// Which limit ended a turn.
    enum Limit = "limit" {
        Iterations = "iterations",
        Tokens = "tokens",
        Output = "output",
        Time = "time",
        Repetition = "repetition",
    }
}

labels! {
    /// Why a turn failed.
    enum Reason = "reason" {
        Model = "model_failed",
        NoModel = "model_unavailable",
        Sandbox = "sandbox",
        Internal = "internal",
        ShuttingDown = "shutting_down",
        Other = "other",
    }
}

labels! {
    /// Whose tool a model called.
    pub(crate) enum Tool = "tool" {
        Python = "python",
        /// The client's own.
        Client = "client",
        /// An MCP server's.
        Mcp = "mcp",
        /// There is none of that name.
        Unknown = "unknown",
    }
}

labels! {
    enum Called = "outcome" {
        Ok = "ok",
        Failed = "failed",
    }
}

labels! {
    /// What tokens were.
    enum Direction = "kind" {
        Input = "input",
        /// Of the input, what came from the provider's cache.
        Cached = "cached_input",
        Output = "output",
        /// Of the output.
        Reasoning = "reasoning",
    }
}

labels! {
    /// How a call of a model failed.
    enum Kind = "kind" {
        Unreachable = "unreachable",
        Overloaded = "overloaded",
        Server = "server",
        Broken = "broken",
        Silent = "silent",
        TooLong = "too_long",
        Denied = "denied",
        Refused = "refused",
        Filtered = "filtered",
    }
}

fn kind(failure: Failure) -> Kind {
    match failure {
        Failure::Unreachable => Kind::Unreachable,
        Failure::Overloaded => Kind::Overloaded,
        Failure::Server => Kind::Server,
        Failure::Broken => Kind::Broken,
        Failure::Silent => Kind::Silent,
        Failure::TooLong => Kind::TooLong,
        Failure::Denied => Kind::Denied,
        Failure::Refused => Kind::Refused,
        Failure::Filtered => Kind::Filtered,
    }
}

#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) running: IntGauge,
    pub(crate) times: Histograms<Outcome>,
    failures: Counters<Reason>,
    limits: Counters<Limit>,
    tools: Counters<(Tool, Called)>,
}

impl Turns {
    pub(super) fn new(book: &mut Book) -> Result<Self, Error> {
        Ok(Self {
            running: book.gauge("kernelbox_turns_running", "Turns that run on this gateway now.")?,
            times: book.histograms(
                "kernelbox_turn_seconds",
                "Time of a turn, by how it ended. One that a limit ended is completed, with an answer that says so.",
                START,
            )?,
            failures: book.counters("kernelbox_turn_failures_total", "Turns that failed, by why.")?,
            limits: book.counters("kernelbox_turn_limits_total", "Turns that a limit ended, by the limit.")?,
            tools: book.counters("kernelbox_tool_calls_total", "Calls of tools by models, by whose tool it was.")?,
        })
    }

    pub(crate) fn failed(&self, code: ErrorCode) {
        self.failures.inc(match code {
            ErrorCode::ModelFailed => Reason::Model,
            ErrorCode::ModelUnavailable => Reason::NoModel,
            ErrorCode::SandboxLost
            | ErrorCode::SandboxRetired
            | ErrorCode::SandboxStartFailed
            | ErrorCode::SandboxBound
            | ErrorCode::NoCapacity
            | ErrorCode::KernelUnavailable => Reason::Sandbox,
            ErrorCode::Internal => Reason::Internal,
            ErrorCode::ShuttingDown => Reason::ShuttingDown,
            _ => Reason::Other,
        });
    }

    /// `name` as in the event that tells of it.
    pub(crate) fn limited(&self, name: &str) {
        self.limits.inc(match name {
            "iterations" => Limit::Iterations,
            "tokens" => Limit::Tokens,
            "output" => Limit::Output,
            "time" => Limit::Time,
            _ => Limit::Repetition,
        });
    }

    pub(crate) fn called(&self, tool: Tool, failed: bool) {
        self.tools.inc((tool, if failed { Called::Failed } else { Called::Ok }));
    }
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) first_token: Histogram,
    pub(crate) times: Histogram,
    tokens: Counters<Direction>,
    errors: Counters<Kind>,
    retries: Counters<Kind>,
}

impl Model {
    pub(super) fn new(book: &mut Book) -> Result<Self, Error> {
        Ok(Self {
            first_token: book.histogram(
                "kernelbox_model_first_token_seconds",
                "Time from a call of a model until the first piece of its answer.",
                REQUEST,
            )?,
            times: book.histogram(
                "kernelbox_model_call_seconds",
                "Time of a call of a model whose answer came whole.",
                START,
            )?,
            tokens: book.counters(
                "kernelbox_model_tokens_total",
                "Tokens, as providers count them. Cached input is a part of input, reasoning of output.",
            )?,
            errors: book
                .counters("kernelbox_model_errors_total", "Calls of a model that failed, by how: each try counts.")?,
            retries: book.counters(
                "kernelbox_model_retries_total",
                "Calls of a model that were made again, by how the one before had failed.",
            )?,
        })
    }

    pub(crate) fn spent(&self, usage: Usage) {
        self.tokens.add(Direction::Input, usage.input_tokens);
        self.tokens.add(Direction::Cached, usage.cached_input_tokens);
        self.tokens.add(Direction::Output, usage.output_tokens);
        self.tokens.add(Direction::Reasoning, usage.reasoning_tokens);
    }

    pub(crate) fn failed(&self, failure: Failure) {
        self.errors.inc(kind(failure));
    }

    pub(crate) fn asked_again(&self, failure: Failure) {
        self.retries.inc(kind(failure));
    }
}
