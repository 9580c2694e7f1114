//! Lines that benchstat reads: one per round of a bench cell, one per mean of a
//! profile, so that its tests of significance see the repetitions.

use crate::{
    ResultFile,
    compare::real_costs,
    schema::{BenchRecord, Context, Record, ResultKind},
};

/// The file as benchstat's input.
pub fn lines(file: &ResultFile) -> String {
    let mut out = heading(&file.context);
    match file.context.kind {
        ResultKind::Bench => {
            for record in &file.records {
                if let Record::Bench(cell) = record {
                    push_rounds(&mut out, cell);
                }
            }
        }
        ResultKind::Profile => {
            for (kind, band, cost) in real_costs(file).iter().filter(|c| c.2.is_supported()) {
                let length = band.to_string().replace(' ', "");
                let range = if cost.several_pages { "several" } else { "1" };
                let name = format!("BenchmarkReal/kind={kind}/pages={range}/sptes={length}");
                let parts = [("ns/callback", cost.total), ("rmap-ns/callback", cost.walk)];
                for (unit, mean) in parts {
                    if let Some(mean) = mean {
                        out.push_str(&format!(
                            "{name} {} {} {unit}\n",
                            cost.callbacks, mean.mean_ns
                        ));
                    }
                }
            }
        }
        ResultKind::Verdict | ResultKind::Matrix => {}
    }
    out
}

fn heading(context: &Context) -> String {
    let cpu = context
        .host
        .cpu_model
        .value()
        .map_or("unknown", String::as_str);
    format!(
        "goos: linux\ngoarch: {}\npkg: rmapscope/{}\ncpu: {}\nkernel: {}\n",
        std::env::consts::ARCH,
        context.kind,
        one_word_per_line(cpu),
        one_word_per_line(&context.host.kernel_release)
    )
}

fn one_word_per_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn push_rounds(out: &mut String, cell: &BenchRecord) {
    let name = name(cell);
    let unit = unit(&cell.metric);
    for round in &cell.rounds {
        out.push_str(&format!("{name} 1 {round} {unit}\n"));
    }
}

/// The cell's name: `BenchmarkWalk/scheme=…/op=…/chain_len=…`.
fn name(cell: &BenchRecord) -> String {
    let mut workload = cell.workload.chars();
    let first = workload.next().map(|c| c.to_ascii_uppercase());
    let workload: String = first.into_iter().chain(workload).collect();
    let mut name = format!(
        "Benchmark{}/scheme={}/op={}",
        word(&workload),
        word(&cell.scheme),
        cell.op
    );
    // What a run happened to get is no part of a name: it would tell apart what
    // is to be compared.
    const NOT_NAMED: [&str; 4] = ["huge_page_share", "working_set_bytes", "slot_pages", "cpus"];
    // Parameters are numbers and names, which always become JSON.
    let params = serde_json::to_value(&cell.params).unwrap_or_default();
    for (key, value) in params.as_object().into_iter().flatten() {
        if NOT_NAMED.contains(&key.as_str()) {
            continue;
        }
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        name.push_str(&format!("/{key}={}", word(&value)));
    }
    name
}

/// One word without what separates names.
fn word(text: &str) -> String {
    let kept = |c: char| {
        if c.is_whitespace() || c.is_control() || c == '/' {
            '_'
        } else {
            c
        }
    };
    text.chars().map(kept).collect()
}

/// `ns_per_gfn` as `ns/gfn`; a unit is one word.
fn unit(metric: &str) -> String {
    word(metric).replacen("_per_", "/", 1)
}
