use super::*;

#[test]
#[ignore = "writes the samples to REPORT_SAMPLES for a look at them"]
fn write_samples() {
    let dir = std::env::var("REPORT_SAMPLES").expect("REPORT_SAMPLES names a folder");
    for (name, input) in [
        ("clean", samples::clean()),
        ("error", samples::error_on_one_bio()),
        ("different", samples::different()),
        ("unjudged", samples::unjudged()),
        ("many", samples::many(10_000)),
        ("hostile", samples::hostile()),
        ("empty", ReportInput::default()),
    ] {
        std::fs::write(format!("{dir}/{name}.html"), render(&input)).expect("writes");
    }
}
