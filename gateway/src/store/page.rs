//! Where a list goes on: opaque to clients.
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernelbox_proto::{Error, SessionId};

use super::Micros;

/// The last row of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageToken {
    pub create_time: Micros,
    pub id: SessionId,
}

impl PageToken {
    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}.{}", self.create_time.0, self.id))
    }

    pub(crate) fn decode(token: &str) -> Result<Self, Error> {
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            let (time, id) = text.split_once('.')?;
            Some(Self { create_time: Micros(time.parse().ok()?), id: id.parse().ok()? })
        };
        read().ok_or_else(|| Error::invalid("page_token", "must be next_page_token of the page before"))
    }
}
