//! Messages as proto3 JSON, by reflection.
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::{Error, FILE_DESCRIPTOR_SET, Result, v1::ErrorCode};

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// The message as proto3 JSON on one line. `full_name` is its protobuf name, for example `kernelbox.v1.ExecutionEvent`.
pub fn to_json(full_name: &str, message: &impl prost::Message) -> Result<String> {
    let descriptor = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(full_name))
        .ok_or_else(|| Error::new(ErrorCode::Internal, format!("no message {full_name} in the contract")))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|e| Error::new(ErrorCode::Internal, format!("{full_name}: {e}")))?;
    serde_json::to_string(&message).map_err(|e| Error::new(ErrorCode::Internal, format!("{full_name}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ExecutionEvent, StreamText, execution_event::Kind};

    #[test]
    fn an_event_is_one_line_of_proto3_json() {
        let event = ExecutionEvent {
            execution: "sessions/a/executions/b".into(),
            sequence: 7,
            time: None,
            kind: Some(Kind::Stdout(StreamText { text: "hi\n".into() })),
        };
        assert_eq!(
            to_json("kernelbox.v1.ExecutionEvent", &event).unwrap(),
            r#"{"execution":"sessions/a/executions/b","sequence":"7","stdout":{"text":"hi\n"}}"#
        );
    }
}
