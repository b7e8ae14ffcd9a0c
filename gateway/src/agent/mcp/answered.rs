//! The result of an MCP tool, as a model sees it. Pure.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

use super::{Answered, CallOptions};
use crate::{
    agent::{
        picture::{Album, Picture},
        text::{middle_cut, one_line, size},
    },
    model::Part,
};

/// A name, an address.
const MAX_NAME: usize = 300;

/// Text first, then the images that it numbers.
pub(super) fn read(result: CallToolResult, options: CallOptions) -> Answered {
    let mut album = Album::new(options.sees_images);
    let mut pieces: Vec<String> = result.content.into_iter().map(|block| words(block, &mut album)).collect();
    // The same as the text, where there is text.
    if let (true, Some(structured)) = (pieces.is_empty(), result.structured_content) {
        pieces.push(structured.to_string());
    }
    let failed = result.is_error == Some(true);
    let mut text = middle_cut(&pieces.join("\n"), options.limit);
    if text.trim().is_empty() {
        text.push_str(if failed { "The tool failed and said nothing." } else { "The tool returned nothing." });
    }
    let parts = std::iter::once(Part::Text(text)).chain(album.into_parts()).collect();
    Answered { parts, failed }
}

fn words(block: ContentBlock, album: &mut Album) -> String {
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(image) => picture(&image.mime_type, &image.data, album),
        ContentBlock::Audio(audio) => format!("[{}, {}]", name(&audio.mime_type), decoded_size(&audio.data)),
        ContentBlock::Resource(embedded) => match embedded.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("[resource {}]\n{text}", name(&uri)),
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                let kind = mime_type.unwrap_or_else(|| "bytes".to_owned());
                format!("[resource {}: {}, {}]", name(&uri), name(&kind), decoded_size(&blob))
            }
            _ => "[a resource of an unknown kind]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => {
            let kind = link.mime_type.map(|kind| format!(", {}", name(&kind))).unwrap_or_default();
            let bytes = link.size.map(|bytes| format!(", {}", size(bytes))).unwrap_or_default();
            format!("[link to the resource {} ({}{kind}{bytes})]", name(&link.name), name(&link.uri))
        }
        _ => "[content of an unknown kind]".to_owned(),
    }
}

fn picture(media_type: &str, data: &str, album: &mut Album) -> String {
    let Some(picture) = STANDARD.decode(data).ok().and_then(|data| Picture::read(data.into())) else {
        return format!("[image: {}, {}]", name(media_type), decoded_size(data));
    };
    let words = picture.words();
    match album.add(picture) {
        Some(number) => format!("[image {number}, below: {words}]"),
        None => format!("[image: {words}]"),
    }
}

fn decoded_size(base64: &str) -> String {
    size(base64.len() as u64 / 4 * 3)
}

fn name(text: &str) -> String {
    one_line(text, MAX_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::picture::tests::png_of;

    fn text(result: CallToolResult, sees_images: bool) -> (String, usize, bool) {
        let options = CallOptions { limit: 300, sees_images };
        let answered = read(result, options);
        let Part::Text(text) = &answered.parts[0] else { panic!("text comes first") };
        (text.clone(), answered.parts.len() - 1, answered.failed)
    }

    #[test]
    fn what_is_no_text_is_described() {
        let blob = ResourceContents::blob("AAAAAAAA", "file:///a.bin").with_mime_type("application/zip");
        let content = vec![
            ContentBlock::text("first"),
            ContentBlock::audio("AAAAAAAA", "audio/wav"),
            ContentBlock::embedded_text("file:///b\n.txt", "inside"),
            ContentBlock::resource(blob),
            ContentBlock::image("no base64!", "image/png"),
        ];
        let words = "first\n[audio/wav, 6 bytes]\n[resource file:///b?.txt]\ninside\n\
                     [resource file:///a.bin: application/zip, 6 bytes]\n[image: image/png, 6 bytes]";
        assert_eq!(text(CallToolResult::success(content), true), (words.to_owned(), 0, false));
    }

    #[test]
    fn images_are_for_models_that_see_them() {
        let content = || vec![ContentBlock::image(STANDARD.encode(png_of(5, 4)), "image/png")];
        let (seen, images, _) = text(CallToolResult::success(content()), true);
        assert!(seen.starts_with("[image 1, below: PNG, 5 x 4 pixels") && images == 1, "{seen}");
        let (told, images, _) = text(CallToolResult::success(content()), false);
        assert!(told.starts_with("[image: PNG, 5 x 4 pixels") && images == 0, "{told}");
    }

    #[test]
    fn failures_structured_results_and_long_texts() {
        let failed = CallToolResult::error(vec![ContentBlock::text("no such city")]);
        assert_eq!(text(failed, false), ("no such city".to_owned(), 0, true));
        let mut structured = CallToolResult::success(vec![]);
        assert_eq!(text(structured.clone(), false).0, "The tool returned nothing.");
        structured.structured_content = Some(serde_json::json!({ "a": 1 }));
        assert_eq!(text(structured, false).0, "{\"a\":1}");
        let long = CallToolResult::success(vec![ContentBlock::text("x".repeat(1000))]);
        assert!(text(long, false).0.contains("of 1000 bytes left out here"));
    }
}
