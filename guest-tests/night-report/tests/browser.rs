//! The page of a night in a real browser, wide and as narrow as a phone, light and dark. `REPORT_SCREENSHOTS=DIR` keeps pictures.

use html_page::browser::{Look, dom, driven, screenshot};
use html_page::embed;
use night_report::{cards, page, samples};
use std::path::PathBuf;

const WIDE: Look = Look { width: 1280, dark: false };

#[test]
fn the_page_opens_and_follows_the_colour_scheme() {
    let page = page(&samples::busy());
    let seen = "document.getElementById('driven').textContent = [document.documentElement.dataset.ready, \
        getComputedStyle(document.body).backgroundColor, document.querySelectorAll('.signature').length].join(' ');";
    assert_eq!(driven(&page, seen, WIDE), "yes rgb(244, 246, 249) 3");
    assert_eq!(driven(&page, seen, Look { dark: true, ..WIDE }), "yes rgb(15, 19, 26) 3");
}

/// A click on a red line brings the card into view, although cards far away are not laid out.
#[test]
fn a_red_line_leads_to_its_card_among_a_thousand() {
    let night = samples::failures(1000, true);
    let card = cards(&night).pop().expect("there are some").signature.id;
    let click = format!(
        "document.querySelector('#failures a[href=\"#s-{card}\"]').click();\
         setTimeout(() => {{ const box = document.getElementById('s-{card}').getBoundingClientRect();\
         document.getElementById('driven').textContent = box.top >= -1 && box.top < innerHeight ? 'in view' : 'at ' + box.top; }}, 500);"
    );
    assert_eq!(driven(&page(&night), &click, WIDE), "in view");
}

/// In a frame, because a window of Chromium is never that narrow.
#[test]
fn nothing_is_cut_off_at_the_width_of_a_phone() {
    let outer = "<!doctype html><html><body><pre id=\"seen\"></pre><iframe style=\"width:390px;border:0\"></iframe><script>\
        const frame = document.querySelector('iframe');\
        frame.onload = () => { document.getElementById('seen').textContent = frame.contentWindow.innerWidth + ' '\
        + frame.contentDocument.documentElement.scrollWidth; };\
        frame.srcdoc = ";
    let dom = dom(&format!("{outer}{};</script></body></html>", embed(&page(&samples::busy()))), WIDE);
    assert!(dom.contains("<pre id=\"seen\">390 390</pre>"), "{}", dom.get(..200).unwrap_or(&dom));
}

#[test]
fn a_picture_can_be_taken() {
    let folder = std::env::var_os("REPORT_SCREENSHOTS").map(PathBuf::from);
    let page = page(&samples::busy());
    for (name, look) in [("light", WIDE), ("dark", Look { dark: true, ..WIDE })] {
        let keep = folder.as_deref().map(|folder| folder.join(format!("night-{name}.png")));
        assert!(screenshot(&page, look, keep).len() > 50_000, "{name}: there is something on it");
    }
}
