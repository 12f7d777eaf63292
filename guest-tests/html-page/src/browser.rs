//! A page in a real browser, for tests: what its script made of it, and what it looks like.
//!
//! Chromium is started without a screen; `CHROMIUM` names another one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where a browser is looked for.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const REMEDY: &str =
    "the report's tests need Chromium: scripts/setup --tests installs it, or set CHROMIUM to the path of one";

/// How the page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Of the window.
    pub width: u32,
    /// The reader asks for dark pages.
    pub dark: bool,
}

fn chromium() -> PathBuf {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let found =
        NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file());
    found.expect(REMEDY)
}

/// Opens a page and returns what Chromium printed.
fn open(page: &str, look: Look, what: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder for the page");
    let file = folder.path().join("report.html");
    std::fs::write(&file, page).expect("the page can be written");
    let mut command = Command::new(chromium());
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
        // Time is the page's own: it runs until nothing is left to do, however slow the machine.
        .arg("--virtual-time-budget=10000")
        .arg(format!("--window-size={},1400", look.width))
        .arg(format!("--blink-settings=preferredColorScheme={}", if look.dark { 0 } else { 1 }))
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .args(what)
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null());
    let output = command.output().expect(REMEDY);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The page as it stands when its script has done its work.
pub fn dom(page: &str, look: Look) -> String {
    let dom = String::from_utf8(open(page, look, &["--dump-dom"]).stdout).expect("HTML is text");
    assert!(dom.contains("</html>"), "no page came back: {dom}");
    dom
}

/// What `script` wrote into the element `driven`: it runs behind the page's own, which the page's policy would not let it.
pub fn driven(page: &str, script: &str, look: Look) -> String {
    let (before, rest) = page.split_once("<meta http-equiv=\"Content-Security-Policy\"").expect("a policy");
    let (_, after) = rest.split_once('>').expect("that ends");
    let driver = format!("<pre id=\"driven\"></pre><script>{script}</script></body>");
    let dom = dom(&format!("{before}{}", after.replace("</body>", &driver)), look);
    let (_, rest) = dom.split_once("<pre id=\"driven\">").expect("the driver's place");
    rest.split_once("</pre>").expect("ends").0.trim().to_owned()
}

/// The page as PNG; kept at `keep`, if that is given.
pub fn screenshot(page: &str, look: Look, keep: Option<PathBuf>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder for the picture");
    let file = keep.unwrap_or_else(|| folder.path().join("page.png"));
    open(page, look, &[&format!("--screenshot={}", Path::new(&file).display())]);
    std::fs::read(&file).expect("Chromium wrote the picture")
}
