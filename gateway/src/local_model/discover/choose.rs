//! Which of a server's models is asked first, by its name: nothing else is known of all of them.

/// Models that can answer, best first; the server's own order among equals.
pub(super) fn by_liking(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.filter(|name| answers(name)).collect();
    names.sort_by_key(|name| rank(name));
    names
}

/// Not one that makes vectors, nor one that runs elsewhere.
fn answers(name: &str) -> bool {
    let name = name.to_lowercase();
    let vectors = ["embed", "minilm", "bge-", "rerank"].iter().any(|part| name.contains(part));
    !vectors && !name.ends_with("-cloud") && !name.ends_with(":cloud")
}

fn rank(name: &str) -> u8 {
    let name = name.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if has(&["-base", ":base"]) {
        // It continues text and does not answer.
        3
    } else if has(&["coder", "code"]) {
        0
    } else if has(&["instruct", "chat"]) {
        1
    } else {
        2
    }
}
