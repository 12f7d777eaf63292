//! `guest-tests bench`: `vhost-blk` and its peers, measured with one client on one machine, in turns.
//!
//! ```text
//! cases (what is asked) × servers (who answers) ─► measure (in turns) ─► result (medians, ratios, goals) ─► JSON, page, text
//! ```
//!
//! Nothing here is judged: a number is what it is, with the load of the machine beside it. A peer that is not installed is
//! said and left out. Everything that is measured runs in a process of its own, which is started anew for every sample.

mod cases;
mod images;
mod measure;
mod page;
mod result;
mod servers;
mod text;

use crate::args::Bench;
use crate::failure::{At, Failure};
use crate::interrupt::Interrupt;
use crate::show;
use images::Images;
use result::Report;
use servers::Peers;
use std::fs;
use std::path::Path;

/// What came of it, and where it was written.
pub struct Ran {
    /// The numbers.
    pub report: Report,
    /// As text, with tables in Markdown.
    pub text: String,
}

/// Measures, and writes `bench.json`, `bench.html` and `bench.md`.
pub fn bench(wanted: &Bench, vhost_blk: &Path, repeat: &str, interrupt: &Interrupt) -> Result<Ran, Failure> {
    let plan = cases::plan(wanted)?;
    let (cpu, last) = (wanted.cpu(), measure::last_cpu());
    if cpu > last {
        return Err(Failure::BadInput(format!("there is no CPU {cpu} here: --cpu takes 0 to {last}")));
    }
    let peers = Peers::find(vhost_blk)?;
    fs::create_dir_all(&wanted.out).at("make", &wanted.out)?;
    let images = Images::make(wanted)?;
    let mut report = Report::new(wanted, &peers, repeat);
    report.skipped.extend(images.warning());
    for case in &plan {
        interrupt.check()?;
        show::progress(&format!("measuring {}", case.title()));
        report.cases.push(measure::case(case, wanted, &peers, &images, interrupt)?);
    }
    report.finish();
    let text = text::describe(&report);
    write(&wanted.out, "bench.json", &(report.to_json() + "\n"))?;
    write(&wanted.out, "bench.html", &page::render(&report))?;
    write(&wanted.out, "bench.md", &text)?;
    Ok(Ran { report, text })
}

fn write(dir: &Path, name: &str, content: &str) -> Result<(), Failure> {
    let path = dir.join(name);
    fs::write(&path, content).at("write", path)
}
