//! What kind of content a file has.

/// The media type, by the file's name and, where that says nothing, by its first bytes.
pub fn media_type(path: &str, first_bytes: &[u8]) -> String {
    if let Some(by_name) = mime_guess::from_path(path).first_raw() {
        return by_name.to_owned();
    }
    if let Some(by_content) = infer::get(first_bytes) {
        return by_content.mime_type().to_owned();
    }
    let text = !first_bytes.contains(&0) && is_utf8_so_far(first_bytes);
    if text { "text/plain" } else { "application/octet-stream" }.to_owned()
}

/// Whether it is UTF-8, but for a character that may be cut at the end.
fn is_utf8_so_far(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_then_the_content() {
        assert_eq!(media_type("a/b.csv", b""), "text/csv");
        assert_eq!(media_type("plot.png", b"not a png"), "image/png");
        assert_eq!(media_type("plot", b"\x89PNG\r\n\x1a\n"), "image/png");
        assert_eq!(media_type("README", "na\u{ef}ve".as_bytes()), "text/plain");
        assert_eq!(media_type("README", &"na\u{ef}".as_bytes()[..3]), "text/plain", "cut within a character");
        assert_eq!(media_type("data", b"\x00\x01"), "application/octet-stream");
    }
}
