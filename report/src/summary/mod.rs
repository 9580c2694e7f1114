//! The tables of one result file.

mod bench;
mod callers;
pub mod census;
mod cores;
mod goals;
mod held_up;
mod losses;
mod marks;
mod matrix;
mod pass;
mod profile;
mod relative;
mod replay;
mod scaling;
mod shares;
mod stacks;
mod tax;
mod verdict;
pub mod watchers;

pub(crate) use bench::describe;
pub(crate) use cores::cores;
pub use goals::goals;
#[cfg(feature = "page")]
pub(crate) use goals::{is_limit, is_peer, is_scheme};
pub(crate) use marks::Marks;
pub use relative::relative_to;
pub use verdict::shown as verdict_figure;

use crate::{ResultFile, schema::ResultKind, table::Table, terminal};

/// All tables of a result file, in the order they are read best.
pub fn tables(file: &ResultFile) -> Vec<Table> {
    match file.context.kind {
        ResultKind::Bench => bench::tables(file)
            .into_iter()
            .chain(replay::tables(file))
            .collect(),
        ResultKind::Profile => profile::tables(file),
        ResultKind::Verdict => verdict::tables(file),
        ResultKind::Matrix => matrix::tables(file),
    }
}

/// What the tables of a file are about: host, program, command, one line each.
pub fn heading(file: &ResultFile) -> Vec<String> {
    let context = &file.context;
    let revision = context
        .tool
        .git_revision
        .value()
        .map_or("unknown revision", String::as_str);
    let mut lines: Vec<String> = partial(file).into_iter().collect();
    lines.extend([
        format!("host:    {}", context.host.label),
        format!(
            "program: rmapscope {} ({revision}), {}{}",
            context.tool.version,
            context.tool.rustc,
            if context.tool.optimised {
                ""
            } else {
                ", NOT OPTIMISED"
            }
        ),
        format!("command: {}", context.command.join(" ")),
        format!("time:    {}", context.created_utc),
    ]);
    if let Some(lock) = &context.mmu_lock {
        lines.push(format!("model:   mmu_lock is {lock}"));
    }
    if let Some(looks) = cores(&file.end.disturbance) {
        lines.push(format!("cores:   {looks}"));
    }
    lines.extend(
        context
            .host
            .unusual
            .iter()
            .map(|note| format!("note:    {note}")),
    );
    lines
        .iter()
        .map(|line| terminal::harmless(line).into_owned())
        .collect()
}

/// That a file is not whole, why, and how much there is.
pub(crate) fn partial(file: &ResultFile) -> Option<String> {
    if file.is_complete() {
        return None;
    }
    let (seconds, what) = match file.context.kind {
        ResultKind::Profile => (profile::duration_s(file), "recorded"),
        _ => (file.end.elapsed_s, "of work"),
    };
    let reason = file.end.reason.as_deref().unwrap_or("ended early");
    Some(format!("PARTIAL: {reason}; {seconds:.1} s {what}"))
}
