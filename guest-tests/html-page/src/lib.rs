//! What all our pages share: head, policy, style, and text that cannot become markup.
//!
//! A page is one file that holds everything it shows and loads nothing, so that it can be mailed or attached to a bug. Its
//! policy lets it run its own script, if it has one, and nothing else; what scenarios, guests and hosts wrote is text in it.

#![forbid(unsafe_code)]

#[cfg(feature = "browser")]
pub mod browser;
mod text;

pub use text::{allow_inline, embed, escape, fill};

const HEAD: &str = include_str!("page.html");
/// Palette, cards, tables, the command to repeat: what makes our pages look alike.
const STYLE: &str = include_str!("style.css");

/// A page, without what is the same for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page<'a> {
    /// Its title, as plain text.
    pub title: &'a str,
    /// Its own style, behind the shared one.
    pub style: &'a str,
    /// Between `<body>` and its end: markup, made safe by whoever made it.
    pub body: &'a str,
    /// Its script; empty: it has none, and may run none.
    pub script: &'a str,
}

impl Page<'_> {
    /// All of it. The same fields give the same bytes.
    pub fn render(&self) -> String {
        let style = format!("{STYLE}{}", self.style);
        let script = if self.script.is_empty() { String::new() } else { format!("<script>{}</script>\n", self.script) };
        let title = escape(self.title);
        let policy = self.policy(&style);
        let values = [
            ("title", title.as_str()),
            ("policy", &policy),
            ("style", &style),
            ("body", self.body),
            ("script", &script),
        ];
        fill(HEAD, &values)
    }

    fn policy(&self, style: &str) -> String {
        let style = allow_inline(style);
        let script = match self.script {
            "" => String::new(),
            script => format!("; script-src {}", allow_inline(script)),
        };
        format!("default-src 'none'; base-uri 'none'; form-action 'none'{script}; style-src {style}")
    }
}

/// A command for a shell, and what it is for.
pub fn repeat(what: &str, command: &str) -> String {
    command_line(what, command, "")
}

/// The same with a button, which a page's script shows and makes copy the command.
pub fn copyable(what: &str, command: &str) -> String {
    command_line(what, command, "<button type=\"button\" class=\"copy\" hidden>Copy</button>")
}

fn command_line(what: &str, command: &str, button: &str) -> String {
    format!("<div class=\"repeat\"><span>{}</span><code>{}</code>{button}</div>", escape(what), escape(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A style that ends its element or loads something would undo the policy.
    #[test]
    fn the_shared_style_loads_nothing_and_ends_no_element() {
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains("</"));
    }

    #[test]
    fn a_page_without_a_script_may_run_none() {
        let page = Page { title: "<b>", body: "<main></main>", ..Page::default() }.render();
        assert!(page.contains("<title>&lt;b&gt; – guest-tests</title>") && !page.contains("script"), "{page}");
    }

    #[test]
    fn a_page_with_a_script_may_run_that_one_alone() {
        let page = Page { script: "1;", ..Page::default() }.render();
        let allowed = format!("script-src {}", allow_inline("1;"));
        assert!(page.contains(&allowed) && page.contains("<script>1;</script>"), "{page}");
    }
}
