//! The name of a fetched file: what the server calls it, else the last part of its address. Always a plain name. Pure.
use http::HeaderValue;
use url::Url;

const MAX: usize = 200;

pub(super) fn of(disposition: Option<&HeaderValue>, url: &Url) -> String {
    let told = disposition.and_then(|it| std::str::from_utf8(it.as_bytes()).ok()).and_then(told);
    let last = || url.path_segments().and_then(|mut it| it.next_back()).map(decoded);
    told.and_then(|it| plain(&it)).or_else(|| plain(&last()?)).unwrap_or_else(|| "download".to_owned())
}

/// The file name of a Content-Disposition header; the extended form goes before the plain one.
fn told(header: &str) -> Option<String> {
    let mut plain = None;
    for parameter in header.split(';').skip(1) {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                let charset = parts.next()?;
                if charset.eq_ignore_ascii_case("utf-8") {
                    return parts.nth(1).map(decoded);
                }
            }
            "filename" => plain = Some(value.to_owned()),
            _ => {}
        }
    }
    plain
}

/// Undoes `%20` and the like.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without folders, control characters and dots in front.
fn plain(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next()?;
    let mut clean: String = last.chars().filter(|c| !c.is_control()).collect();
    while clean.len() > MAX {
        clean.pop();
    }
    let clean = clean.trim().trim_start_matches('.');
    (!clean.is_empty()).then(|| clean.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        for (header, url, name) in [
            ("", "http://x/a/b.csv?c=d", "b.csv"),
            ("", "http://x/a%2F..%2Fb", "b"),
            ("", "http://x/%E2%82%AC.txt", "€.txt"),
            ("", "http://x/", "download"),
            ("", "http://x/a/..%2f..", "download"),
            ("attachment; filename=\"r.pdf\"", "http://x/y", "r.pdf"),
            ("attachment; filename=\"../../etc/passwd\"", "http://x/y", "passwd"),
            ("attachment; filename=\"a\"; filename*=UTF-8''%e2%82%ac.pdf", "http://x/y", "€.pdf"),
            ("attachment; filename=\"..\"", "http://x/y", "y"),
            ("attachment; filename=.bashrc", "http://x/y", "bashrc"),
        ] {
            let header = (!header.is_empty()).then(|| HeaderValue::from_str(header).unwrap());
            assert_eq!(of(header.as_ref(), &Url::parse(url).unwrap()), name, "{header:?} {url}");
        }
    }
}
