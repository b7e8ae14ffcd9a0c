//! Sizes of messages, and ways to make them smaller. Pure.
use kernelbox_proto::v1::TurnStatus;

use super::text;
use crate::{
    model::{AssistantMessage, CallResult, Message, Part, ToolSpec},
    store::TurnMessages,
};

/// What is left of a shortened result, in bytes.
const SHORT: usize = 600;
/// Tokens of an image, roughly, with every provider.
const IMAGE_TOKENS: usize = 1500;
/// Of a message besides its text.
const MESSAGE_TOKENS: usize = 8;

/// A careful guess: text takes 3 to 4 bytes a token, code less.
pub(super) fn tokens_of_text(text: &str) -> usize {
    text.len().div_ceil(3)
}

pub(super) fn tokens_of_tool(tool: &ToolSpec) -> usize {
    tokens_of_text(&tool.name) + tokens_of_text(&tool.description) + tokens_of_text(&tool.parameters.to_string())
}

pub(super) fn tokens(messages: &[Message]) -> usize {
    let of_parts = |parts: &[Part]| parts.iter().map(tokens_of_part).sum::<usize>();
    let of_message = |message: &Message| match message {
        Message::User(parts) => of_parts(parts),
        Message::Assistant(AssistantMessage { text, calls, opaque }) => {
            let calls = calls.iter().map(|call| MESSAGE_TOKENS + tokens_of_text(&call.arguments)).sum::<usize>();
            tokens_of_text(text) + calls + opaque.as_ref().map_or(0, |it| tokens_of_text(&it.to_string()))
        }
        Message::Results(results) => results.iter().map(|it| MESSAGE_TOKENS + of_parts(&it.parts)).sum(),
    };
    messages.iter().map(|message| MESSAGE_TOKENS + of_message(message)).sum()
}

fn tokens_of_part(part: &Part) -> usize {
    match part {
        Part::Text(text) => tokens_of_text(text),
        Part::Image { .. } => IMAGE_TOKENS,
    }
}

/// Shortens results, and says of images only that there was one.
pub(super) fn shorten(messages: &mut [Message]) {
    for message in messages {
        if let Message::Results(results) = message {
            results.iter_mut().flat_map(|result| &mut result.parts).for_each(shorten_part);
        }
    }
}

/// The same, but for the last results: the model has not seen them yet.
pub(super) fn shorten_all_but_last(messages: &mut [Message]) {
    let last = messages.iter().rposition(|message| matches!(message, Message::Results(_))).unwrap_or(0);
    shorten(&mut messages[..last]);
}

fn shorten_part(part: &mut Part) {
    match part {
        Part::Text(text) => *text = text::middle_cut(text, SHORT),
        Part::Image { media_type, .. } => *part = Part::Text(format!("(an image, {media_type}, was shown here)")),
    }
}

/// How many of the oldest turns are beyond what `room` tokens hold of the newest.
pub(super) fn oldest_beyond(turns: &[TurnMessages], room: usize) -> usize {
    let mut sum = 0;
    let kept = turns.iter().rev().take_while(|turn| {
        sum += tokens(&turn.messages);
        sum <= room
    });
    turns.len() - kept.count()
}

/// Makes an ended turn's messages what providers accept: each call with a result, an answer at the end.
pub(super) fn mend(turn: &mut TurnMessages) {
    let mut mended: Vec<Message> = Vec::with_capacity(turn.messages.len());
    let mut messages = std::mem::take(&mut turn.messages).into_iter().peekable();
    while let Some(message) = messages.next() {
        let unanswered = match &message {
            Message::Assistant(said) if !matches!(messages.peek(), Some(Message::Results(_))) => interrupted(said),
            _ => Vec::new(),
        };
        mended.push(message);
        if !unanswered.is_empty() {
            mended.push(Message::Results(unanswered));
        }
    }
    if !matches!(mended.last(), Some(Message::Assistant(_))) && !mended.is_empty() {
        let why = match turn.status {
            TurnStatus::Cancelled => "the user cancelled it",
            TurnStatus::Completed => "a limit was reached",
            _ => "it failed",
        };
        let text = format!("(This turn ended before an answer: {why}.)");
        mended.push(Message::Assistant(AssistantMessage { text, ..Default::default() }));
    }
    turn.messages = mended;
}

fn interrupted(message: &AssistantMessage) -> Vec<CallResult> {
    let words = || vec![Part::Text("(interrupted: there is no result)".to_owned())];
    message.calls.iter().map(|call| CallResult { call: call.id.clone(), parts: words(), failed: true }).collect()
}

/// The summary as the model is told it: the user speaks first.
pub(super) fn summary_message(summary: &str) -> Message {
    Message::User(vec![Part::Text(format!("[Summary of what was said before: {summary}]"))])
}

/// Consecutive messages of the user's become one, as some providers want.
pub(super) fn joined(messages: impl Iterator<Item = Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::new();
    for message in messages {
        match (joined.last_mut(), message) {
            (Some(Message::User(before)), Message::User(parts)) => before.extend(parts),
            (_, message) => joined.push(message),
        }
    }
    joined
}

/// Turns as text to be summarised.
pub(super) fn transcript(before: &[String], turns: &[TurnMessages]) -> String {
    let mut lines = before.to_vec();
    for message in turns.iter().flat_map(|turn| &turn.messages) {
        match message {
            Message::User(parts) => lines.push(format!("User: {}", words(parts))),
            Message::Assistant(said) => {
                lines
                    .extend(said.calls.iter().map(|call| format!("Assistant calls {}: {}", call.name, call.arguments)));
                if !said.text.is_empty() {
                    lines.push(format!("Assistant: {}", said.text));
                }
            }
            Message::Results(results) => {
                lines
                    .extend(results.iter().map(|it| format!("Result: {}", text::middle_cut(&words(&it.parts), SHORT))));
            }
        }
    }
    lines.join("\n")
}

fn words(parts: &[Part]) -> String {
    let word = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image { media_type, .. } => format!("(an image, {media_type})"),
    };
    parts.iter().map(word).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ToolCall;
    use proptest::prelude::*;

    fn user(text: &str) -> Message {
        Message::User(vec![Part::Text(text.into())])
    }

    fn said(text: &str, calls: &[&str]) -> Message {
        let call = |id: &&str| ToolCall { id: (*id).into(), name: "python".into(), arguments: "{}".into() };
        Message::Assistant(AssistantMessage {
            text: text.into(),
            calls: calls.iter().map(call).collect(),
            opaque: None,
        })
    }

    fn results(ids: &[&str], text: &str) -> Message {
        let result = |id: &&str| CallResult { call: (*id).into(), parts: vec![Part::Text(text.into())], failed: false };
        Message::Results(ids.iter().map(result).collect())
    }

    fn turn(number: i64, messages: Vec<Message>) -> TurnMessages {
        TurnMessages { number, status: TurnStatus::Failed, messages }
    }

    /// Each call has its result right after it, and an answer comes last.
    fn is_whole(messages: &[Message]) -> bool {
        let calls = |message: &Message| match message {
            Message::Assistant(said) => said.calls.iter().map(|call| call.id.clone()).collect(),
            _ => Vec::new(),
        };
        let answered = |message: Option<&Message>| match message {
            Some(Message::Results(results)) => results.iter().map(|it| it.call.clone()).collect(),
            _ => Vec::new(),
        };
        let each = (0..messages.len()).all(|at| calls(&messages[at]) == answered(messages.get(at + 1)));
        each && matches!(messages.last(), None | Some(Message::Assistant(_)))
    }

    proptest! {
        #[test]
        fn a_turn_cut_off_anywhere_is_mended(cut in 0_usize..=6) {
            let whole = [
                user("q"), said("", &["a", "b"]), results(&["a", "b"], "r"), said("hm", &["c"]), results(&["c"], "r"), said("done", &[]),
            ];
            let mut turn = turn(1, whole[..cut].to_vec());
            mend(&mut turn);
            prop_assert!(is_whole(&turn.messages), "{:?}", turn.messages);
        }
    }

    #[test]
    fn results_are_shortened_and_the_last_is_not() {
        let long = "x".repeat(5000);
        let mut messages = vec![user(&long), results(&["a"], &long), said("", &["b"]), results(&["b"], &long)];
        let before = tokens(&messages);
        shorten_all_but_last(&mut messages);
        assert!(tokens(&messages) < before);
        assert_eq!(messages[3], results(&["b"], &long));
        assert_eq!(messages[0], user(&long), "what the user said is never cut");
        shorten(&mut messages);
        assert_ne!(messages[3], results(&["b"], &long));
    }

    #[test]
    fn the_oldest_turns_go_first() {
        let turns: Vec<_> = (1..=4).map(|n| turn(n, vec![user(&"x".repeat(300)), said("y", &[])])).collect();
        let one = tokens(&turns[0].messages);
        assert_eq!(oldest_beyond(&turns, 0), 4);
        assert_eq!(oldest_beyond(&turns, one * 2), 2);
        assert_eq!(oldest_beyond(&turns, one * 9), 0);
    }

    #[test]
    fn the_users_messages_are_one_where_they_meet() {
        let messages = joined([summary_message("s"), user("q"), said("a", &[]), user("r")].into_iter());
        assert_eq!(messages.len(), 3);
        assert!(matches!(&messages[0], Message::User(parts) if parts.len() == 2));
    }
}
