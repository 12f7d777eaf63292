//! Text into a page without becoming markup.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Makes any text safe between tags and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // A terminal's or an editor's control codes say nothing here and can hide what follows.
            c if c.is_control() && c != '\n' && c != '\t' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// JSON that can stand inside a `<script>` element: no tag, no comment and no line separator can be read out of it.
pub fn embed(data: &impl Serialize) -> String {
    let json = serde_json::to_string(data).expect("plain data with string keys becomes JSON");
    let mut safe = String::with_capacity(json.len());
    // Outside strings JSON has none of these characters, inside them the escape means the same.
    for c in json.chars() {
        match c {
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            '\u{2028}' => safe.push_str("\\u2028"),
            '\u{2029}' => safe.push_str("\\u2029"),
            c => safe.push(c),
        }
    }
    safe
}

/// Source expression of a content security policy that allows exactly this inline script or style.
pub fn allow_inline(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let six = (word >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    text
}

/// Puts `values` into a template's `{{name}}`s, in one pass: a value that looks like a placeholder stays what it is.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut page = String::with_capacity(template.len() + values.iter().map(|value| value.1.len()).sum::<usize>());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, tail) = after.split_once("}}").expect("a placeholder ends");
        let value = values.iter().find(|value| value.0 == name).expect("every placeholder has a value");
        page.push_str(before);
        page.push_str(value.1);
        rest = tail;
    }
    page.push_str(rest);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_markup_survives_escaping() {
        assert_eq!(
            escape("<img src=x onerror='a&\"b\"'>\u{1b}[31m"),
            "&lt;img src=x onerror=&#39;a&amp;&quot;b&quot;&#39;&gt;\u{fffd}[31m"
        );
    }

    #[test]
    fn embedded_json_closes_no_element_and_reads_back_the_same() {
        let text = "</script><!--\u{2028}\u{2029}&amp;";
        let json = embed(&text);
        assert_eq!(json, "\"\\u003c/script\\u003e\\u003c!--\\u2028\\u2029\\u0026amp;\"");
        assert_eq!(serde_json::from_str::<String>(&json).expect("is JSON"), text);
    }

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        let all: Vec<_> = ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())).into();
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn a_value_that_looks_like_a_placeholder_is_left_alone() {
        assert_eq!(fill("{{a}}-{{b}}", &[("a", "{{b}}"), ("b", "2")]), "{{b}}-2");
    }
}
