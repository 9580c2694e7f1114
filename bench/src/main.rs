//! `rmapscope-bench`: measures what each lock scheme costs.

use std::process::ExitCode;

use bench::cli::{self, Failure};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    bench::huge_pages::prefer();
    match cli.execute() {
        Ok(code) => code,
        Err(Failure { error, code }) => {
            report::say!("error: {error:#}");
            ExitCode::from(code)
        }
    }
}
