//! `PUT|GET|HEAD|DELETE /v1/sessions/{session}/files/{path}`: FileService for programs that speak HTTP, streaming both ways.
use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::StreamExt as _;
use kernelbox_proto::{
    Error, SessionId,
    v1::{
        DeleteFileRequest, DownloadRequest, ErrorCode, File, FileType, StatFileRequest, UploadHeader,
        download_response::Part,
    },
};

use super::{
    error,
    range::{self, Range},
};
use crate::{
    limits::Work,
    metrics::Way,
    services::{Caller, Services, limited, too_large},
    sessions::Slot,
};

/// Of a larger file the ETag is its size and time: its digest would cost more than the file.
const DIGEST_UP_TO: i64 = 64 << 20;

pub(crate) fn routes(services: Services) -> Router {
    let methods = get(read).put(write).delete(delete);
    Router::new().route("/v1/sessions/{session}/files/{*path}", methods).with_state(services)
}

type Target = Path<(String, String)>;

async fn read(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    Path((session, path)): Target,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let answer = send(&services, &caller, &session, path, method == Method::HEAD, &headers).await;
    answer.unwrap_or_else(|e| error::response(&e, &caller.request_id))
}

async fn send(
    services: &Services,
    caller: &Caller,
    session: &str,
    path: String,
    head: bool,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let id: SessionId = session.parse()?;
    let (slot, permit) = services.enter(caller, &id, Work::Follow).await?;
    let file = stat(services, &slot, &path).await?;
    if file.r#type() != FileType::File {
        return Err(Error::new(ErrorCode::NotARegularFile, format!("{path} is not a regular file")));
    }
    let tag = etag(&file);
    if let Some(wanted) = text(headers, header::IF_MATCH)
        && !matches(wanted, &tag)
    {
        return Err(changed(&path));
    }
    let mut response = Response::new(Body::empty());
    let out = response.headers_mut();
    out.insert(header::ETAG, value(&tag)?);
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What code wrote must not act as a page of this server.
    out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    out.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    if text(headers, header::IF_NONE_MATCH).is_some_and(|known| matches(known, &tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let media = if file.media_type.is_empty() { "application/octet-stream" } else { &file.media_type };
    out.insert(header::CONTENT_TYPE, value(media)?);

    let size = u64::try_from(file.size).unwrap_or(0);
    let in_range = text(headers, header::IF_RANGE).is_none_or(|known| matches(known, &tag));
    let (start, length, status) = match range::parse(text(headers, header::RANGE).filter(|_| in_range), size) {
        Range::All => (0, size, StatusCode::OK),
        Range::Part { start, length } => {
            out.insert(header::CONTENT_RANGE, value(&format!("bytes {start}-{}/{size}", start + length - 1))?);
            (start, length, StatusCode::PARTIAL_CONTENT)
        }
        Range::Outside => {
            let message = format!("the range lies outside of the file, which has {size} bytes");
            let mut response = error::response(&Error::new(ErrorCode::OutOfRange, message), &caller.request_id);
            response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{size}"))?);
            return Ok(response);
        }
    };
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    *response.status_mut() = status;
    if head || length == 0 {
        return Ok(response);
    }
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let request = DownloadRequest {
        session: slot.id.name(),
        path: path.clone(),
        offset: signed(start),
        length: signed(length),
        sha256: String::new(),
    };
    let open = |mut client: crate::sandbox::SandboxClient| {
        let request = request.clone();
        async move { client.download(request).await }
    };
    let (stream, live) = services.router.call(&slot, open).await?;
    let mut parts = services.relay(caller.clone(), slot, live, stream, permit);
    let first = parts.next().await.transpose().map_err(|status| Error::from_status(&status))?;
    match first.and_then(|it| it.part) {
        Some(Part::File(now)) if now.size == file.size => {}
        _ => return Err(changed(&path)),
    }
    let bytes = services.router.metrics().file_bytes.clone();
    let chunks = parts.map(move |part| match part.map(|it| it.part) {
        Ok(Some(Part::Chunk(chunk))) => {
            bytes.add(Way::Out, chunk.len() as u64);
            Ok(chunk)
        }
        Ok(_) => Err(std::io::Error::other("the sandbox sent no bytes")),
        Err(status) => Err(std::io::Error::other(status.message().to_owned())),
    });
    *response.body_mut() = Body::from_stream(chunks);
    Ok(response)
}

async fn write(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    Path((session, path)): Target,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let written = async {
        let id: SessionId = session.parse()?;
        let limit = services.file_bytes;
        let length = text(&headers, header::CONTENT_LENGTH).and_then(|it| it.parse::<u64>().ok());
        if length.is_some_and(|it| it > limit) {
            return Err(too_large(limit));
        }
        let (slot, _permit) = services.enter(&caller, &id, Work::Transfer).await?;
        if let Some(wanted) = text(&headers, header::IF_MATCH)
            && !matches(wanted, &etag(&stat(&services, &slot, &path).await?))
        {
            return Err(changed(&path));
        }
        let header = UploadHeader {
            session: slot.id.name(),
            path,
            offset: 0,
            sha256: String::new(),
            overwrite: text(&headers, header::IF_NONE_MATCH) != Some("*"),
            mode: 0,
        };
        let parts = body.into_data_stream().map(|part| {
            part.map_err(|_| Error::new(ErrorCode::Cancelled, "the upload was cut off; nothing was written"))
        });
        let file = services.upload(&slot, header, limited(Box::pin(parts), limit)).await?;
        let json = kernelbox_proto::to_json("kernelbox.v1.File", &file)?;
        let tag = value(&etag(&file))?;
        Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json")), (header::ETAG, tag)], json))
    };
    match written.await {
        Ok(answer) => answer.into_response(),
        Err(error) => error::response(&error, &caller.request_id),
    }
}

async fn delete(
    State(services): State<Services>,
    Extension(caller): Extension<Caller>,
    Path((session, path)): Target,
) -> Response {
    let deleted = async {
        let id: SessionId = session.parse()?;
        let (slot, _permit) = services.enter(&caller, &id, Work::Transfer).await?;
        let request = DeleteFileRequest { session: slot.id.name(), path, recursive: false };
        let send = |mut client: crate::sandbox::SandboxClient| {
            let request = request.clone();
            async move { client.delete_file(request).await }
        };
        services.router.call(&slot, send).await
    };
    match deleted.await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error::response(&error, &caller.request_id),
    }
}

/// The file, with its digest where that is cheap.
async fn stat(services: &Services, slot: &Arc<Slot>, path: &str) -> Result<File, Error> {
    let ask = async |digest: bool| {
        let request = StatFileRequest { session: slot.id.name(), path: path.to_owned(), digest };
        let send = |mut client: crate::sandbox::SandboxClient| {
            let request = request.clone();
            async move { client.stat_file(request).await }
        };
        services.router.call(slot, send).await.map(|(file, _)| file)
    };
    let file = ask(false).await?;
    if file.r#type() == FileType::File && file.size <= DIGEST_UP_TO { ask(true).await } else { Ok(file) }
}

fn etag(file: &File) -> String {
    if file.sha256.is_empty() {
        let time = file.modify_time.unwrap_or_default();
        format!("W/\"{:x}-{:x}.{:x}\"", file.size, time.seconds, time.nanos)
    } else {
        format!("\"{}\"", file.sha256)
    }
}

/// Whether the tag is in a header's list.
fn matches(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|it| it == "*" || it == tag)
}

fn changed(path: &str) -> Error {
    Error::new(ErrorCode::DigestMismatch, format!("{path} changed, or is not as the request says"))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|error| crate::services::internal("a response header", &error))
}
