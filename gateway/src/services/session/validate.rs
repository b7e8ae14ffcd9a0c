//! What a session may be: checks with errors that name the field, and the merge of an update. Pure.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use kernelbox_proto::{
    Error,
    v1::{AutoInstall, CreateSessionRequest, McpServer, Session, Tool},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::agent::PYTHON;

const MAX_LABELS: usize = 64;
const MAX_LABEL_BYTES: usize = 63;
const MAX_NAME: usize = 256;
const MAX_TEMPLATE: usize = 63;
const MAX_PROMPT: usize = 256 << 10;
const MAX_ENV: usize = 256;
const MAX_ENV_BYTES: usize = 128 << 10;
const MAX_TOOLS: usize = 128;
const MAX_TOOL_BYTES: usize = 64 << 10;
const MIN_IDLE: Duration = Duration::from_secs(1);
const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The settings as they are stored: checked, without the fields that are output only.
pub(super) fn settings(session: Session) -> Result<Session, Error> {
    let Session {
        display_name,
        labels,
        template,
        tools,
        mcp_servers,
        system_prompt,
        system_prompt_suffix,
        model,
        env,
        auto_install,
        idle_timeout,
        ..
    } = session;
    let at_most = |field: &str, text: &str, max: usize| match text.len() > max {
        true => Err(Error::invalid(field, format!("must have at most {max} bytes"))),
        false => Ok(()),
    };
    at_most("session.display_name", &display_name, MAX_NAME)?;
    at_most("session.model", &model, MAX_NAME)?;
    at_most("session.system_prompt", &system_prompt, MAX_PROMPT)?;
    at_most("session.system_prompt_suffix", &system_prompt_suffix, MAX_PROMPT)?;
    at_most("session.template", &template, MAX_TEMPLATE)?;
    if labels.len() > MAX_LABELS {
        return Err(Error::invalid("session.labels", format!("must be at most {MAX_LABELS}")));
    }
    for (name, value) in &labels {
        if name.is_empty() || name.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES {
            let problem = format!("{name:?}: a key must have 1 to {MAX_LABEL_BYTES} bytes, a value at most as many");
            return Err(Error::invalid("session.labels", problem));
        }
    }
    check_env(&env)?;
    check_tools(&tools)?;
    check_servers(&mcp_servers)?;
    if AutoInstall::try_from(auto_install).is_err() {
        return Err(Error::invalid("session.auto_install", "must be one of AutoInstall"));
    }
    if let Some(timeout) = idle_timeout
        && !Duration::try_from(timeout).is_ok_and(|it| (MIN_IDLE..=MAX_IDLE).contains(&it))
    {
        return Err(Error::invalid("session.idle_timeout", "must be 1 second to 30 days"));
    }
    Ok(Session {
        display_name,
        labels,
        template,
        tools,
        mcp_servers,
        system_prompt,
        system_prompt_suffix,
        model,
        env,
        auto_install,
        idle_timeout,
        ..Default::default()
    })
}

fn check_env(env: &HashMap<String, String>) -> Result<(), Error> {
    let field = "session.env";
    if env.len() > MAX_ENV || env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > MAX_ENV_BYTES {
        return Err(Error::invalid(field, format!("must be at most {MAX_ENV} variables and {MAX_ENV_BYTES} bytes")));
    }
    for (name, value) in env {
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let problem = format!("{name:?}: a name must be of A-Z, a-z, 0-9 and \"_\" and not begin with a digit");
            return Err(Error::invalid(field, problem));
        }
        if name.starts_with("KERNELBOX_") {
            return Err(Error::invalid(
                field,
                format!("{name:?}: names that begin with KERNELBOX_ are the server's own"),
            ));
        }
        if value.contains('\0') {
            return Err(Error::invalid(field, format!("{name:?}: a value must not hold NUL")));
        }
    }
    Ok(())
}

fn check_tools(tools: &[Tool]) -> Result<(), Error> {
    if tools.len() > MAX_TOOLS {
        return Err(Error::invalid("session.tools", format!("must be at most {MAX_TOOLS}")));
    }
    let mut names = HashSet::new();
    for (at, tool) in tools.iter().enumerate() {
        let field = |name: &str| format!("session.tools[{at}].{name}");
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if tool.name.is_empty() || tool.name.len() > 64 || !tool.name.bytes().all(allowed) {
            return Err(Error::invalid(&field("name"), "must be 1 to 64 of A-Z, a-z, 0-9, \"_\" and \"-\""));
        }
        if tool.name == PYTHON {
            return Err(Error::invalid(
                &field("name"),
                "\"python\" runs code in the session; give the tool another name",
            ));
        }
        if !names.insert(tool.name.as_str()) {
            return Err(Error::invalid(&field("name"), format!("{:?} is there twice", tool.name)));
        }
        if tool.encoded_len() > MAX_TOOL_BYTES {
            return Err(Error::invalid(
                &field("parameters"),
                format!("a tool must have at most {MAX_TOOL_BYTES} bytes"),
            ));
        }
        let of_object = |it: &prost_types::Struct| match it.fields.get("type").and_then(|it| it.kind.as_ref()) {
            None => true,
            Some(prost_types::value::Kind::StringValue(name)) => name == "object",
            Some(_) => false,
        };
        if !tool.parameters.as_ref().is_none_or(of_object) {
            return Err(Error::invalid(&field("parameters"), "must be a JSON schema of type object"));
        }
        check_timeout(&field("timeout"), tool.timeout)?;
    }
    Ok(())
}

fn check_servers(servers: &[McpServer]) -> Result<(), Error> {
    if servers.len() > MAX_TOOLS {
        return Err(Error::invalid("session.mcp_servers", format!("must be at most {MAX_TOOLS}")));
    }
    let mut names = HashSet::new();
    for (at, server) in servers.iter().enumerate() {
        let field = |name: &str| format!("session.mcp_servers[{at}].{name}");
        if server.name.is_empty() || server.name.len() > 64 || !names.insert(server.name.as_str()) {
            return Err(Error::invalid(&field("name"), "must have 1 to 64 bytes and be there once"));
        }
        let url = url::Url::parse(&server.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if url.is_none_or(|url| !url.has_host() || !url.username().is_empty() || url.password().is_some()) {
            return Err(Error::invalid(&field("url"), "must be an http:// or https:// address without a user in it"));
        }
        for (name, value) in &server.headers {
            let header = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
            if !header {
                return Err(Error::invalid(&field("headers"), format!("{name:?} is not a header with a valid value")));
            }
        }
        check_timeout(&field("timeout"), server.timeout)?;
    }
    Ok(())
}

fn check_timeout(field: &str, timeout: Option<prost_types::Duration>) -> Result<(), Error> {
    match timeout {
        Some(it) if !Duration::try_from(it).is_ok_and(|it| !it.is_zero()) => {
            Err(Error::invalid(field, "must be more than 0"))
        }
        _ => Ok(()),
    }
}

pub(super) fn request_id(id: &str) -> Result<(), Error> {
    id.parse::<kernelbox_proto::ExecutionId>().map(|_| ())
}

/// The settings after an update. Without a mask, all fields that are set in `new`.
pub(super) fn merge(old: &Session, new: &Session, mask: Option<&[String]>) -> Result<Session, Error> {
    let mut merged = old.clone();
    let set: Vec<String>;
    let paths = match mask {
        Some(paths) if !paths.is_empty() => paths,
        _ => {
            set = FIELDS.iter().filter(|(_, is_set, _)| is_set(new)).map(|(name, ..)| (*name).to_owned()).collect();
            &set
        }
    };
    for path in paths {
        let fields: Vec<_> = FIELDS.iter().filter(|(name, ..)| path == "*" || name == path).collect();
        if fields.is_empty() {
            let names: Vec<_> = FIELDS.iter().map(|(name, ..)| *name).collect();
            return Err(Error::invalid("update_mask", format!("{path:?} is not one of {}", names.join(", "))));
        }
        for (.., copy) in fields {
            copy(&mut merged, new);
        }
    }
    Ok(merged)
}

type Field = (&'static str, fn(&Session) -> bool, fn(&mut Session, &Session));

/// What can be updated: its name, whether it is set, how it is copied.
const FIELDS: [Field; 11] = [
    ("display_name", |s| !s.display_name.is_empty(), |to, from| to.display_name.clone_from(&from.display_name)),
    ("labels", |s| !s.labels.is_empty(), |to, from| to.labels.clone_from(&from.labels)),
    ("template", |s| !s.template.is_empty(), |to, from| to.template.clone_from(&from.template)),
    ("tools", |s| !s.tools.is_empty(), |to, from| to.tools.clone_from(&from.tools)),
    ("mcp_servers", |s| !s.mcp_servers.is_empty(), |to, from| to.mcp_servers.clone_from(&from.mcp_servers)),
    ("system_prompt", |s| !s.system_prompt.is_empty(), |to, from| to.system_prompt.clone_from(&from.system_prompt)),
    (
        "system_prompt_suffix",
        |s| !s.system_prompt_suffix.is_empty(),
        |to, from| {
            to.system_prompt_suffix.clone_from(&from.system_prompt_suffix);
        },
    ),
    ("model", |s| !s.model.is_empty(), |to, from| to.model.clone_from(&from.model)),
    ("env", |s| !s.env.is_empty(), |to, from| to.env.clone_from(&from.env)),
    ("auto_install", |s| s.auto_install != 0, |to, from| to.auto_install = from.auto_install),
    ("idle_timeout", |s| s.idle_timeout.is_some(), |to, from| to.idle_timeout = from.idle_timeout),
];

/// The same for the same request. Maps have no order of their own on the wire, so they are put in order here.
pub(super) fn digest(request: &CreateSessionRequest) -> String {
    let mut rest = request.clone();
    let mut session = rest.session.take().unwrap_or_default();
    let mut maps: Vec<BTreeMap<String, String>> = Vec::new();
    maps.push(std::mem::take(&mut session.labels).into_iter().collect());
    maps.push(std::mem::take(&mut session.env).into_iter().collect());
    maps.extend(session.mcp_servers.iter_mut().map(|it| std::mem::take(&mut it.headers).into_iter().collect()));
    rest.session = Some(session);
    let mut hash = Sha256::new();
    hash.update(rest.encode_to_vec());
    hash.update(format!("{maps:?}"));
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_problem_names_its_field() {
        let tool = |name: &str| Tool { name: name.into(), ..Default::default() };
        let server = |url: &str| McpServer { name: "m".into(), url: url.into(), ..Default::default() };
        let base = Session::default;
        for (field, session) in [
            ("session.display_name", Session { display_name: "x".repeat(257), ..base() }),
            ("session.labels", Session { labels: map(&[("", "x")]), ..base() }),
            ("session.labels", Session { labels: map(&[("k", &"x".repeat(64))]), ..base() }),
            ("session.env", Session { env: map(&[("1A", "x")]), ..base() }),
            ("session.env", Session { env: map(&[("KERNELBOX_X", "x")]), ..base() }),
            ("session.env", Session { env: map(&[("A", "x\0")]), ..base() }),
            ("session.template", Session { template: "g".repeat(64), ..base() }),
            ("session.tools[1].name", Session { tools: vec![tool("a"), tool("a")], ..base() }),
            ("session.tools[0].name", Session { tools: vec![tool("a b")], ..base() }),
            ("session.tools[0].name", Session { tools: vec![tool("python")], ..base() }),
            ("session.mcp_servers[0].url", Session { mcp_servers: vec![server("ftp://x")], ..base() }),
            ("session.mcp_servers[0].url", Session { mcp_servers: vec![server("http://u:p@x")], ..base() }),
            (
                "session.mcp_servers[0].timeout",
                Session {
                    mcp_servers: vec![McpServer {
                        timeout: Some(prost_types::Duration::default()),
                        ..server("http://x")
                    }],
                    ..base()
                },
            ),
            ("session.idle_timeout", Session { idle_timeout: Some(prost_types::Duration::default()), ..base() }),
            ("session.auto_install", Session { auto_install: 99, ..base() }),
        ] {
            let error = settings(session).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
        }
    }

    #[test]
    fn output_only_fields_are_ignored() {
        let sent = Session { name: "sessions/x".into(), generation: 7, model: "m".into(), ..Default::default() };
        assert_eq!(settings(sent).unwrap(), Session { model: "m".into(), ..Default::default() });
    }

    #[test]
    fn a_mask_says_what_is_copied_and_its_absence_means_what_is_set() {
        let old = Session { display_name: "old".into(), model: "m".into(), ..Default::default() };
        let new = Session { display_name: "new".into(), ..Default::default() };
        assert_eq!(merge(&old, &new, None).unwrap().model, "m");
        assert_eq!(merge(&old, &new, None).unwrap().display_name, "new");
        let cleared = merge(&old, &new, Some(&["model".to_owned()])).unwrap();
        assert_eq!((cleared.model.as_str(), cleared.display_name.as_str()), ("", "old"));
        let error = merge(&old, &new, Some(&["etag".to_owned()])).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("update_mask"));
    }

    #[test]
    fn a_digest_knows_no_order_and_sees_every_value() {
        let request = |env: &[(&str, &str)]| CreateSessionRequest {
            session: Some(Session { env: map(env), ..Default::default() }),
            ..Default::default()
        };
        let one = request(&[("A", "1"), ("B", "2"), ("C", "3"), ("D", "4")]);
        for _ in 0..8 {
            assert_eq!(digest(&one), digest(&request(&[("D", "4"), ("C", "3"), ("B", "2"), ("A", "1")])));
        }
        assert_ne!(digest(&one), digest(&request(&[("A", "1"), ("B", "2"), ("C", "3"), ("D", "5")])));
    }
}
