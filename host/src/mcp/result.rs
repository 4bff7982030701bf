//! What a tool of an MCP server returns, as a model reads it.

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

/// The most bytes of a result that are taken over. What of them a model is shown, its run decides.
const RESULT_BYTES_MAX: usize = 2 << 20;

/// The text of a result: its structured content as JSON, else its texts. Binary parts are named.
pub(super) fn text(result: CallToolResult) -> String {
    let mut text = match result.structured_content {
        Some(json) if !json.is_null() => json.to_string(),
        _ => {
            let parts: Vec<String> = result.content.into_iter().map(part).collect();
            parts.join("\n")
        }
    };
    if text.len() > RESULT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(RESULT_BYTES_MAX));
        text.push_str(" [cut]");
    }
    text
}

fn part(block: ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(image) => not_shown("image", &image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => not_shown("audio", &audio.mime_type, audio.data.len()),
        ContentBlock::Resource(embedded) => match embedded.resource {
            ResourceContents::TextResourceContents { text, .. } => text,
            ResourceContents::BlobResourceContents { mime_type, blob, .. } => {
                not_shown("file", mime_type.as_deref().unwrap_or("unknown"), blob.len())
            }
            _ => "[a resource of an unknown kind]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[resource {}]", link.uri),
        _ => "[a part of an unknown kind]".to_owned(),
    }
}

/// A part in base64, which is four bytes for three.
fn not_shown(what: &str, kind: &str, base64_bytes: usize) -> String {
    format!("[{what} of about {} bytes, {kind}, not shown]", base64_bytes / 4 * 3)
}
