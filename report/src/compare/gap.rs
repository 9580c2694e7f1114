//! Where the time of a real callback goes that its synthetic counterpart does
//! not have, and what each scheme could change about it.
//!
//! Only what a profile holds is told apart; a part that it does not tell apart
//! is missing with the reason, and never guessed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Row;
use crate::{
    Observed, ResultFile,
    schema::{Cache, CallbackKind, CallbackRecord, ChainLen, HeldUp, Record},
    stats::{SampledMean, sampled_mean_ns},
    summary::Marks,
    table::{Column, Table, signed_percent, with_interval},
};

/// One part of the mean callback of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Which callback.
    pub kind: CallbackKind,
    /// The part.
    pub part: String,
    /// `[mean, low, high]` of a callback's time in it, nanoseconds.
    pub ns: Observed<[f64; 3]>,
}

/// What a scheme would change about the mean callback of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Saving {
    /// Which callback.
    pub kind: CallbackKind,
    /// The scheme.
    pub scheme: String,
    /// By cache state: synthetic time more than the kernel's own scheme, and half of
    /// its 95 % interval, nanoseconds.
    pub ns: BTreeMap<Cache, (f64, f64)>,
    /// Mean time of the real callbacks it is held against, nanoseconds.
    pub real_ns: f64,
    /// Their share of the callbacks that the kernel's own scheme has rows for: chains that
    /// the scheme was not measured at are left out on both sides.
    pub covered_share: f64,
}

/// Sums over the callbacks of a kind that a row may be about.
#[derive(Default)]
struct Sums {
    callbacks: u64,
    rmap: u64,
    age_gfn: u64,
    notifier: u64,
    own: u64,
    ns_of: f64,
    timed: u64,
    total_ns: f64,
    wait_ns: f64,
    waited: u64,
    tdp_ns: Option<f64>,
}

impl Sums {
    fn of(profile: &ResultFile, kind: CallbackKind) -> Self {
        let mut sums = Self::default();
        for record in &profile.records {
            if let Record::Callbacks(cell) = record
                && cell.kind == kind
                && !cell.several_pages
                && matches!(cell.chain_len, ChainLen::Exact(_))
            {
                sums.add(cell);
            }
        }
        sums
    }

    fn add(&mut self, cell: &CallbackRecord) {
        self.callbacks = self.callbacks.saturating_add(cell.callbacks);
        if let Observed::Value(s) = &cell.samples {
            self.rmap = self.rmap.saturating_add(s.rmap);
            self.age_gfn = self.age_gfn.saturating_add(s.age_gfn);
            self.notifier = self.notifier.saturating_add(s.notifier);
            self.own = self.own.saturating_add(s.own);
            self.ns_of += s.total().saturating_add(s.own) as f64 * s.period_ns as f64;
        }
        if let Observed::Value(latency) = &cell.latency {
            self.timed = self.timed.saturating_add(latency.count());
            self.total_ns += latency.mean_ns() * latency.count() as f64;
        }
        if let Observed::Value(wait) = &cell.wait {
            self.waited = self.waited.saturating_add(wait.count());
            self.wait_ns += wait.mean_ns() * wait.count() as f64;
        }
        if let Observed::Value(tdp) = &cell.tdp {
            *self.tdp_ns.get_or_insert(0.0) += tdp.mean_ns() * tdp.count() as f64;
        }
    }

    fn sampled(&self, samples: u64) -> Observed<[f64; 3]> {
        let outside = self.notifier.saturating_add(self.own);
        let all = self
            .rmap
            .saturating_add(self.age_gfn)
            .saturating_add(outside);
        if all == 0 {
            return Observed::missing("no timer sample fell into these callbacks");
        }
        let period = (self.ns_of / all as f64).round() as u64;
        let mean = sampled_mean_ns(samples, period, self.callbacks);
        mean.map_or_else(
            || Observed::missing("there were no callbacks"),
            |m| Observed::Value(flat(m)),
        )
    }
}

fn flat(mean: SampledMean) -> [f64; 3] {
    [mean.mean_ns, mean.low_ns, mean.high_ns]
}

/// The mean time that a recorded callback waited for mmu_lock, nanoseconds, all kinds
/// together; `None` where waits were not observed.
pub(super) fn lock_wait_ns(profile: &ResultFile) -> Option<f64> {
    let (mut waited, mut callbacks) = (None, 0_u64);
    for record in &profile.records {
        match record {
            Record::Interference(held_up) if held_up.what == HeldUp::AgingWait => {
                for times in [&held_up.while_aging, &held_up.not_aging] {
                    if let Observed::Value(times) = times {
                        *waited.get_or_insert(0.0) += times.mean_ns() * times.count() as f64;
                    }
                }
            }
            Record::Callbacks(cell) => callbacks = callbacks.saturating_add(cell.callbacks),
            _ => {}
        }
    }
    waited
        .filter(|_| callbacks > 0)
        .map(|ns| ns / callbacks as f64)
}

/// The parts of the mean callback of every kind that has rows.
pub(super) fn parts(profile: &ResultFile, rows: &[Row]) -> Vec<Part> {
    let mut kinds: Vec<CallbackKind> = rows.iter().map(|r| r.kind).collect();
    kinds.dedup();
    kinds
        .into_iter()
        .flat_map(|kind| of_kind(profile, kind))
        .collect()
}

fn of_kind(profile: &ResultFile, kind: CallbackKind) -> Vec<Part> {
    let sums = Sums::of(profile, kind);
    let part = |part: &str, ns| Part {
        kind,
        part: part.to_owned(),
        ns,
    };
    if sums.timed > 0 {
        return timed(&sums, &part);
    }
    let together =
        || Observed::missing("samples do not tell it from the rest of what is outside the walk");
    let inside = sums.rmap.saturating_add(sums.age_gfn);
    vec![
        part(
            "all of the callback",
            sums.sampled(sums.notifier.saturating_add(inside)),
        ),
        part(
            "notifier list, SRCU, memslot lookup and lock wait together",
            sums.sampled(sums.notifier),
        ),
        part("notifier and SRCU", together()),
        part("memslot lookup", together()),
        part("lock wait", together()),
        part(
            "aging one gfn, outside the chain",
            sums.sampled(sums.age_gfn),
        ),
        part("walk of the chain", sums.sampled(sums.rmap)),
        part("our probe (not part of the cost)", sums.sampled(sums.own)),
        part("unknown", unknown(profile)),
    ]
}

fn timed(sums: &Sums, part: &dyn Fn(&str, Observed<[f64; 3]>) -> Part) -> Vec<Part> {
    let total = sums.total_ns / sums.timed as f64;
    let exact = |ns: f64| Observed::Value([ns, ns, ns]);
    let no_wait = || Observed::missing("the start of the walk was not observed");
    let wait = (sums.waited > 0).then(|| sums.wait_ns / sums.waited as f64);
    let no_tdp = || Observed::missing("no callback was seen to reach it");
    let tdp = sums.tdp_ns.map(|ns| ns / sums.timed as f64);
    let one_time = || Observed::missing("one time stands for all that comes before the walk");
    vec![
        part("all of the callback", exact(total)),
        part(
            "notifier list, SRCU, memslot lookup and lock wait together",
            wait.map_or_else(no_wait, exact),
        ),
        part("notifier and SRCU", one_time()),
        part("memslot lookup", one_time()),
        part("lock wait", one_time()),
        part(
            "walk of the rmaps",
            wait.map_or_else(no_wait, |w| exact(total - w - tdp.unwrap_or(0.0))),
        ),
        part("walk of the TDP MMU", tdp.map_or_else(no_tdp, exact)),
        part(
            "our probe",
            Observed::missing("probes run inside the time they measure; see cost of observing"),
        ),
        part(
            "unknown",
            Observed::missing("the times before and in the walk leave no rest"),
        ),
    ]
}

fn unknown(profile: &ResultFile) -> Observed<[f64; 3]> {
    let (mut failed, mut kernel) = (0_u64, 0_u64);
    for record in &profile.records {
        if let Record::Run(run) = record
            && let Observed::Value(sampling) = &run.sampling
        {
            failed = failed.saturating_add(sampling.stack_failed);
            kernel = kernel.saturating_add(sampling.kernel);
        }
    }
    Observed::missing(format!(
        "{failed} of {kernel} kernel samples had no readable stack and may belong anywhere"
    ))
}

/// States of the caches in which schemes are held against each other. How far cold misses
/// of neighbouring callbacks overlap differs between two builds of one walk by more than
/// locks do.
const COMPARED: [Cache; 2] = [Cache::Hot, Cache::Swept];

/// What each scheme would change, weighted by the recorded callbacks.
pub(super) fn changes(rows: &[Row], own: Option<&str>) -> Vec<Saving> {
    let Some(own) = own else { return Vec::new() };
    let mut found: Vec<Saving> = Vec::new();
    for row in rows.iter().filter(|r| r.scheme != own) {
        if found
            .iter()
            .any(|c| c.kind == row.kind && c.scheme == row.scheme)
        {
            continue;
        }
        let pairs: Vec<(&Row, &Row)> = rows
            .iter()
            .filter(|r| r.kind == row.kind && r.scheme == row.scheme)
            .filter_map(|r| {
                let of_own = |o: &&Row| o.scheme == own && o.is_beside(r);
                Some((r, rows.iter().find(of_own)?))
            })
            .collect();
        let callbacks: f64 = pairs.iter().map(|(r, _)| r.real.callbacks as f64).sum();
        let real = |r: &Row| r.real.total.map_or(0.0, |t| t.mean_ns) * r.real.callbacks as f64;
        found.push(Saving {
            kind: row.kind,
            scheme: row.scheme.clone(),
            ns: COMPARED
                .into_iter()
                .filter_map(|cache| Some((cache, difference(&pairs, cache)?)))
                .collect(),
            real_ns: pairs.iter().map(|(r, _)| real(r)).sum::<f64>() / callbacks.max(1.0),
            covered_share: callbacks / all_of_own(rows, own, row.kind).max(1.0),
        });
    }
    found
}

/// The callbacks of a kind that the kernel's own scheme has rows for.
fn all_of_own(rows: &[Row], own: &str, kind: CallbackKind) -> f64 {
    let of_own = rows.iter().filter(|r| r.kind == kind && r.scheme == own);
    of_own.map(|r| r.real.callbacks as f64).sum()
}

fn difference(pairs: &[(&Row, &Row)], cache: Cache) -> Option<(f64, f64)> {
    let (mut weight, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for (row, own) in pairs {
        let (Some(a), Some(b)) = (row.at(cache), own.at(cache)) else {
            continue;
        };
        let half = a.half_width_ns()?.hypot(b.half_width_ns()?);
        let n = row.real.callbacks as f64;
        weight += n;
        sum += n * (a.ns - b.ns);
        squares += (n * half).powi(2);
    }
    (weight > 0.0).then(|| (sum / weight, squares.sqrt() / weight))
}

/// The parts as a table.
pub(super) fn parts_table(parts: &[Part]) -> Table {
    let mut table = Table::new(
        "Where the time of a real callback goes",
        vec![
            Column::text("callback"),
            Column::text("part"),
            Column::number("mean (ns)"),
        ],
    );
    let mut reasons: Vec<String> = Vec::new();
    for part in parts {
        let shown = match &part.ns {
            Observed::Value([mean, low, high]) if low < high => {
                with_interval(*mean, Some((*low, *high)))
            }
            Observed::Value([mean, ..]) => with_interval(*mean, None),
            Observed::Missing(reason) => {
                let note = format!("{}: {reason}.", part.part);
                if !reasons.contains(&note) {
                    reasons.push(note);
                }
                "-".to_owned()
            }
        };
        table.row(vec![part.kind.to_string(), part.part.clone(), shown]);
    }
    if !table.is_empty() {
        table.note(
            "Parts and all of them as they were recorded: a mean of samples is that of every rate \
             together, which is above the one at rate zero by what the sampling itself costs.",
        );
    }
    reasons.into_iter().for_each(|reason| table.note(reason));
    table
}

/// The changes as a table.
pub(super) fn changes_table(changes: &[Saving], marks: Marks<'_>) -> Table {
    let seen = |cache: &Cache| changes.iter().any(|c| c.ns.contains_key(cache));
    let caches: Vec<Cache> = Cache::ALL.into_iter().filter(seen).collect();
    let mut columns = vec![Column::text("callback"), Column::text("scheme")];
    columns.extend(caches.iter().map(|c| Column::number(format!("{c} (ns)"))));
    columns.push(Column::number("of (ns)"));
    let mut table = Table::new(
        "What each scheme could save or add per real callback",
        columns,
    );
    for change in changes {
        let shown = |difference: Option<&(f64, f64)>| match difference {
            None => "-".to_owned(),
            Some((ns, half)) if ns.abs() <= *half => format!("{ns:+.1} ±{half:.1} (~)"),
            Some((ns, half)) => {
                let share = signed_percent(*ns, change.real_ns);
                format!("{ns:+.1} ±{half:.1} ({share})")
            }
        };
        let mut row = vec![change.kind.to_string(), marks.named(&change.scheme)];
        row.extend(caches.iter().map(|cache| shown(change.ns.get(cache))));
        row.push(format!("{:.0}", change.real_ns));
        table.row(row);
    }
    if !table.is_empty() {
        table.note(format!(
            "Synthetic time of the scheme less that of {}, what the kernel does, by the state of \
             the caches, over the recorded ranges and chain lengths, ± half of the 95 % interval; \
             in brackets as a share of the real callback (of). ~: the interval includes no change. \
             It is the uncontended walk: what waiting for a lock costs is in neither side, but what \
             taking one costs is in the schemes that do. Not of llc and cold caches: there two \
             builds of one walk differ by more than schemes do.",
            marks.kernels_own.unwrap_or("the kernel's own scheme")
        ));
        table.note(
            "The shares are of this recording's mix of chain lengths, which test guests were set \
             to; another mix gives others.",
        );
        let shown: usize = changes.iter().map(|change| change.ns.len()).sum();
        table.note(format!(
            "Of these {shown} intervals about one in twenty leaves out the truth by chance."
        ));
        for change in changes.iter().filter(|c| c.covered_share < 1.0) {
            table.note(format!(
                "{} under {}: only of the {:.0} % of these callbacks at whose chain lengths it was \
                 measured.",
                change.kind,
                change.scheme,
                change.covered_share * 100.0
            ));
        }
        if let Some(note) = marks.note(changes.iter().map(|change| change.scheme.as_str())) {
            table.note(note);
        }
    }
    table
}
