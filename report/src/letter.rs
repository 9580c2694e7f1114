//! Results as kernel cover letters print them: hardware, software, the exact
//! commands, the results, notes that define the columns; no line longer than 75
//! columns, because mail programs break longer ones.

use crate::{
    Observed, ResultFile,
    schema::{Context, Host},
    summary,
    table::{Column, Format, Table, wrap},
    terminal::{self, harmless},
};

/// Longest line, columns.
pub const WIDTH: usize = 75;

/// A result file as a cover letter.
pub fn letter(file: &ResultFile) -> String {
    let mut out = String::new();
    let mut machine = hardware(&file.context.host);
    if let Some(looks) = summary::cores(&file.end.disturbance) {
        machine.push(format!("cores: {looks}"));
    }
    section(&mut out, "Hardware", &machine);
    section(&mut out, "Software", &software(&file.context));
    let command = format!("$ {}", file.context.command.join(" "));
    section(
        &mut out,
        "Command",
        &[command, format!("begun {}", file.context.created_utc)],
    );
    out.push_str("Results\n=======\n");
    if let Some(partial) = summary::partial(file) {
        out.push_str(&wrap(&harmless(&partial), "  "));
    }
    for table in summary::tables(file) {
        out.push('\n');
        out.push_str(&within(&table));
    }
    out
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    out.push_str(&format!("{title}\n{}\n", "=".repeat(title.len())));
    for line in lines {
        out.push_str(&wrap(&harmless(line), "  "));
    }
    out.push('\n');
}

fn known<T: std::fmt::Display>(value: &Observed<T>) -> String {
    match value {
        Observed::Value(value) => value.to_string(),
        Observed::Missing(reason) => format!("unknown ({reason})"),
    }
}

fn hardware(host: &Host) -> Vec<String> {
    let mib = |bytes: &Observed<u64>| match bytes {
        Observed::Value(bytes) => format!("{} MiB", bytes >> 20),
        Observed::Missing(reason) => format!("unknown ({reason})"),
    };
    vec![
        format!(
            "CPU: {}, {} online",
            known(&host.cpu_model),
            host.cpus_online
        ),
        format!(
            "topology: {} sockets, {} nodes, {} threads per core",
            known(&host.sockets),
            known(&host.numa_nodes),
            known(&host.threads_per_core)
        ),
        format!(
            "memory: {}, last-level cache {}",
            mib(&host.memory_bytes),
            mib(&host.llc_bytes)
        ),
        format!(
            "governor: {}; SMT: {}",
            known(&host.governor),
            known(&host.smt)
        ),
        format!(
            "virtualised: {}; PMU: {}",
            known(&host.hypervisor),
            known(&host.pmu)
        ),
    ]
}

fn software(context: &Context) -> Vec<String> {
    let host = &context.host;
    let mut lines = vec![
        format!("kernel: {} {}", host.kernel_release, host.kernel_version),
        format!(
            "KVM: {}, lockless aging {}, tdp_mmu {}",
            known(&host.kvm.backend),
            known(&host.kvm.lockless_aging),
            host.kvm
                .parameters
                .get("kvm.tdp_mmu")
                .map_or("unknown", String::as_str)
        ),
        format!(
            "THP: {}; MGLRU: {}; kdamonds: {}",
            known(&host.thp),
            known(&host.mglru),
            known(&host.kdamonds)
        ),
        format!(
            "rmapscope {} ({}), {}{}",
            context.tool.version,
            known(&context.tool.git_revision),
            context.tool.rustc,
            if context.tool.optimised {
                ""
            } else {
                ", NOT OPTIMISED"
            }
        ),
    ];
    lines.extend(host.unusual.iter().map(|note| format!("note: {note}")));
    lines
}

/// A table whose lines fit: as it is, or in groups of columns that each repeat
/// the leading names, or, where even that is too wide, one block per row.
pub fn within(table: &Table) -> String {
    within_columns(table, WIDTH)
}

/// A table as a person reads it: as wide as it is, but no wider than the terminal that it is
/// printed to.
pub fn on_terminal(table: &Table) -> String {
    match terminal::size() {
        Some((columns, _)) => within_columns(table, columns.max(WIDTH)),
        None => table.render(Format::Text),
    }
}

/// As [`within`], for lines of any length.
fn within_columns(table: &Table, width: usize) -> String {
    let fits = |text: &str| fits(text, width);
    if fits(&table.render(Format::Text)) {
        return table.render(Format::Text);
    }
    let names = table
        .columns()
        .iter()
        .take_while(|c| !c.is_number())
        .count()
        .max(1);
    let parts = in_parts(table, names, width).filter(|text| fits(text));
    parts.unwrap_or_else(|| in_blocks(table))
}

fn fits(text: &str, width: usize) -> bool {
    text.lines().all(|line| line.chars().count() <= width)
}

fn in_parts(table: &Table, names: usize, width: usize) -> Option<String> {
    if names == table.columns().len() {
        // Nothing to cut: every column is a name.
        return None;
    }
    let mut texts: Vec<String> = Vec::new();
    let mut from = names;
    while from < table.columns().len() {
        let longest = (from + 1..=table.columns().len())
            .take_while(|to| {
                let text = part(table, names, from..*to, false).render(Format::Text);
                fits(&text, width)
            })
            .last()?;
        let last = longest == table.columns().len();
        let mut shown = part(table, names, from..longest, last);
        if from == names {
            shown = shown.titled(table.title());
        }
        texts.push(shown.render(Format::Text));
        from = longest;
    }
    Some(texts.join("\n"))
}

/// The leading columns and those of a range.
fn part(table: &Table, names: usize, range: std::ops::Range<usize>, notes: bool) -> Table {
    let picked = |index: &usize| *index < names || range.contains(index);
    let indices: Vec<usize> = (0..table.columns().len()).filter(picked).collect();
    let columns: Vec<Column> = indices
        .iter()
        .map(|i| table.columns()[*i].clone())
        .collect();
    let mut out = Table::new("", columns);
    for row in table.rows() {
        out.row(indices.iter().map(|i| row[*i].clone()).collect());
    }
    if notes {
        table.notes().iter().for_each(|note| out.note(note.clone()));
    }
    out
}

fn in_blocks(table: &Table) -> String {
    let mut out = wrap(table.title(), "");
    for row in table.rows() {
        out.push('\n');
        for (column, cell) in table.columns().iter().zip(row) {
            if !cell.is_empty() {
                out.push_str(&wrap(&format!("{}: {cell}", column.header()), "  "));
            }
        }
    }
    out.push('\n');
    for note in table.notes() {
        out.push_str(&wrap(note, "  "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(columns: usize, cell: &str) -> Table {
        let mut all = vec![Column::text("scheme")];
        all.extend((0..columns).map(|n| Column::number(format!("cost of {n} (ns)"))));
        let mut table = Table::new("Costs", all);
        let mut row = vec!["bitlock".to_owned()];
        row.resize(columns + 1, cell.to_owned());
        table.row(row);
        table.note("a note");
        table
    }

    #[test]
    fn a_wide_table_is_cut_between_columns_and_loses_none() {
        let text = within(&wide(12, "1,234 ±567"));
        assert!(fits(&text, WIDTH), "{text}");
        assert!(
            (0..12).all(|n| text.contains(&format!("cost of {n} (ns)"))),
            "{text}"
        );
        assert_eq!(text.matches("Costs").count(), 1);
        assert_eq!(text.matches("a note").count(), 1);
        assert!(text.matches("bitlock").count() > 1);
    }

    #[test]
    fn a_wider_terminal_is_used_to_its_edge() {
        let table = wide(12, "1,234 ±567");
        let text = within_columns(&table, 100);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!((WIDTH + 1..=100).contains(&longest.unwrap()), "{text}");
        assert_eq!(within_columns(&table, 1000), table.render(Format::Text));
    }

    #[test]
    fn a_cell_wider_than_a_mail_is_wrapped() {
        let text = within(&wide(1, &"word ".repeat(40)));
        assert!(fits(&text, WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 40);
    }
}
