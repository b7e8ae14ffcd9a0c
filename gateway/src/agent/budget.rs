//! A turn's limits, what is left of them, and the words for each that ends it.
use kernelbox_proto::v1::LimitReached;
use tokio::time::Instant;

use super::Halt;
use crate::{limits::TurnLimits, model::Usage};

#[derive(Debug)]
pub(super) struct Budget {
    limits: TurnLimits,
    deadline: Instant,
    steps: u32,
    tokens: u64,
    output: u64,
}

impl Budget {
    pub(super) fn new(limits: TurnLimits) -> Self {
        Self { deadline: Instant::now() + limits.timeout, limits, steps: 0, tokens: 0, output: 0 }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The number of the next model call, if there may be one.
    pub(super) fn next_step(&mut self) -> Result<i32, Halt> {
        let TurnLimits { iterations, tokens, output_bytes, .. } = self.limits;
        if self.steps >= iterations {
            return Err(reached("iterations", format!("the turn may ask the model {iterations} times")));
        }
        if self.tokens >= tokens {
            return Err(reached("tokens", format!("the turn used {} of {tokens} tokens", self.tokens)));
        }
        if self.output >= output_bytes {
            return Err(reached("output", format!("its code put out {} of {output_bytes} bytes", self.output)));
        }
        self.steps += 1;
        Ok(i32::try_from(self.steps).unwrap_or(i32::MAX))
    }

    pub(super) fn spend(&mut self, usage: Usage) {
        self.tokens = self.tokens.saturating_add(usage.input_tokens).saturating_add(usage.output_tokens);
    }

    pub(super) fn put_out(&mut self, bytes: u64) {
        self.output = self.output.saturating_add(bytes);
    }

    /// Bytes that code may still put out.
    pub(super) fn output_left(&self) -> u64 {
        self.limits.output_bytes.saturating_sub(self.output)
    }

    pub(super) fn out_of_time(&self) -> LimitReached {
        limit("time", format!("the turn took longer than {}", humantime::format_duration(self.limits.timeout)))
    }

    /// The honest answer of a turn that a limit ended. `last_words` is what the model said last, maybe nothing.
    pub(super) fn stopped(&self, limit: &LimitReached, last_words: &str) -> String {
        let steps = if self.steps == 1 { "1 step".to_owned() } else { format!("{} steps", self.steps) };
        let mut answer = format!("Stopped after {steps}: {}.", limit.message);
        if !last_words.trim().is_empty() {
            answer.push_str("\n\nThe model's last words were: ");
            answer.push_str(last_words.trim());
        }
        answer
    }
}

pub(super) fn limit(name: &str, message: String) -> LimitReached {
    LimitReached { limit: name.to_owned(), message }
}

fn reached(name: &str, message: String) -> Halt {
    Halt::Limit(limit(name, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended_by(halt: Result<i32, Halt>) -> String {
        match halt {
            Err(Halt::Limit(limit)) => limit.limit,
            _ => String::new(),
        }
    }

    #[test]
    fn each_limit_ends_it_by_name() {
        let limits = TurnLimits { iterations: 2, tokens: 10, output_bytes: 5, ..TurnLimits::default() };
        let mut budget = Budget::new(limits.clone());
        assert!(budget.next_step().is_ok_and(|step| step == 1));
        assert!(budget.next_step().is_ok_and(|step| step == 2));
        assert_eq!(ended_by(budget.next_step()), "iterations");
        let mut budget = Budget::new(limits.clone());
        budget.spend(Usage { input_tokens: 7, output_tokens: 3, ..Usage::default() });
        assert_eq!(ended_by(budget.next_step()), "tokens");
        let mut budget = Budget::new(limits);
        budget.put_out(3);
        assert_eq!(budget.output_left(), 2);
        budget.put_out(3);
        assert_eq!(ended_by(budget.next_step()), "output");
    }

    #[test]
    fn a_stopped_turn_says_so() {
        let mut budget = Budget::new(TurnLimits::default());
        assert!(budget.next_step().is_ok());
        let answer = budget.stopped(&limit("time", "it was late".into()), " so far: 3 ");
        assert_eq!(answer, "Stopped after 1 step: it was late.\n\nThe model's last words were: so far: 3");
    }
}
