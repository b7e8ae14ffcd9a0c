//! What a model is shown of a display: of its many representations the one that says most. Pure.
use kernelbox_proto::v1::{MimeBundle, MimePart, mime_part::Content};

use super::html;
use crate::agent::{
    picture::Picture,
    text::{middle_cut, size},
};

/// A chart's long repr, behind the chart itself, says little.
const MAX_BESIDE: usize = 300;

/// A display as a model may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) text: String,
    pub(super) picture: Option<Picture>,
}

impl Seen {
    /// Text of at most about `limit` bytes, and the first picture.
    pub(super) fn of(bundle: &MimeBundle, limit: usize) -> Self {
        let parts = Parts(&bundle.parts);
        let picture = parts.0.iter().find_map(|part| match &part.content {
            Some(Content::Data(data)) if part.media_type.starts_with("image/") => Picture::read(data.clone()),
            _ => None,
        });
        let text = match &picture {
            Some(_) => parts.text("text/markdown").or_else(|| parts.plain()).map(str::to_owned),
            None => parts.words(),
        };
        Self { text: middle_cut(&text.unwrap_or_default(), limit), picture }
    }
}

struct Parts<'a>(&'a [MimePart]);

impl<'a> Parts<'a> {
    fn text(&self, media_type: &str) -> Option<&'a str> {
        self.0.iter().filter(|part| part.media_type == media_type).find_map(|part| match &part.content {
            Some(Content::Text(text) | Content::Json(text)) if !text.trim().is_empty() => Some(text.as_str()),
            _ => None,
        })
    }

    /// text/plain, unless it is a mere `<matplotlib.Figure object at ...>`.
    fn plain(&self) -> Option<&'a str> {
        let is_bare = |text: &str| text.starts_with('<') && text.ends_with('>') && !text.contains('\n');
        self.text("text/plain").filter(|text| !is_bare(text.trim()))
    }

    /// The best text, without a picture beside it.
    fn words(&self) -> Option<String> {
        let chart = self.0.iter().find(|part| {
            part.media_type.starts_with("application/vnd.") && !part.media_type.contains("jupyter.widget")
        });
        if let Some(chart) = chart {
            let plain = self.plain().filter(|plain| plain.len() <= MAX_BESIDE).unwrap_or_default();
            return Some(format!("{} {plain}", described(chart)).trim_end().to_owned());
        }
        let read = self.text("text/markdown").or_else(|| self.plain()).or_else(|| self.text("text/latex"));
        if let Some(text) = read {
            return Some(text.to_owned());
        }
        let html = self.text("text/html").map(html::text).filter(|text| !text.is_empty());
        let rest = || self.text("application/json").map(str::to_owned);
        html.or_else(rest).or_else(|| {
            let other = self.0.iter().find(|part| part.media_type != "text/plain");
            other.map(described).or_else(|| self.text("text/plain").map(str::to_owned))
        })
    }
}

/// What cannot be shown: its kind and size.
fn described(part: &MimePart) -> String {
    let (bytes, kept) = match &part.content {
        Some(Content::Text(text) | Content::Json(text)) => (text.len() as u64, None),
        Some(Content::Data(data)) => (data.len() as u64, None),
        Some(Content::Artifact(artifact)) => (u64::try_from(artifact.size).unwrap_or(0), Some(&artifact.path)),
        None => (0, None),
    };
    let kept = kept.map(|path| format!(", also in the file {path}")).unwrap_or_default();
    format!("[{}, {}, which the user sees{kept}]", part.media_type, size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::picture::tests::png_of;
    use kernelbox_proto::v1::Artifact;

    fn bundle(parts: &[(&str, &str)]) -> MimeBundle {
        let part = |(media_type, text): &(&str, &str)| MimePart {
            media_type: (*media_type).to_owned(),
            content: Some(match media_type.contains("json") {
                true => Content::Json((*text).to_owned()),
                false => Content::Text((*text).to_owned()),
            }),
        };
        MimeBundle { parts: parts.iter().map(part).collect(), ..Default::default() }
    }

    fn words(parts: &[(&str, &str)]) -> String {
        Seen::of(&bundle(parts), 1000).text
    }

    #[test]
    fn the_most_useful_text_is_taken() {
        let frame = [("text/html", "<table><tr><td>1</td></tr></table>"), ("text/plain", "   a\n0  1")];
        assert_eq!(words(&frame), "   a\n0  1");
        let markdown = [("text/markdown", "**b**"), ("text/plain", "<IPython.core.display.Markdown object>")];
        assert_eq!(words(&markdown), "**b**");
        let html = [("text/html", "<b>Total</b>: 5"), ("text/plain", "<IPython.core.display.HTML object>")];
        assert_eq!(words(&html), "Total: 5");
        assert_eq!(words(&[("text/latex", "$x$"), ("text/plain", "<Math object>")]), "$x$");
        assert_eq!(words(&[("application/json", "{\"a\":1}"), ("text/plain", "<JSON object>")]), "{\"a\":1}");
        assert_eq!(words(&[("text/plain", "<Figure size 640x480>")]), "<Figure size 640x480>");
        assert_eq!(words(&[("text/plain", "'a'")]), "'a'");
        assert_eq!(words(&[]), "");
    }

    #[test]
    fn what_has_no_text_is_described() {
        let script = [("text/html", "<script>x</script>"), ("text/plain", "<HTML object>")];
        assert_eq!(words(&script), "[text/html, 18 bytes, which the user sees]");
        let chart =
            [("application/vnd.plotly.v1+json", "{\"data\":[]}"), ("text/html", "<div>"), ("text/plain", "Fig()")];
        assert_eq!(words(&chart), "[application/vnd.plotly.v1+json, 11 bytes, which the user sees] Fig()");
        let artifact = Artifact { path: ".kernelbox/d1.png".into(), size: 2 << 20, ..Default::default() };
        let part = MimePart { media_type: "image/png".into(), content: Some(Content::Artifact(artifact)) };
        let large = MimeBundle { parts: vec![part], ..Default::default() };
        let words = "[image/png, 2.0 MiB, which the user sees, also in the file .kernelbox/d1.png]";
        assert_eq!(Seen::of(&large, 1000).text, words);
    }

    #[test]
    fn a_picture_is_seen_with_the_words_beside_it() {
        let mut figure = bundle(&[("text/plain", "<Figure size 640x480 with 1 Axes>")]);
        figure.parts.push(MimePart { media_type: "image/png".into(), content: Some(Content::Data(png_of(4, 3))) });
        let seen = Seen::of(&figure, 1000);
        assert_eq!((seen.text.as_str(), seen.picture.map(|it| (it.width, it.height))), ("", Some((4, 3))));
        figure.parts[0].content = Some(Content::Text("caption".into()));
        assert_eq!(Seen::of(&figure, 1000).text, "caption");
    }
}
