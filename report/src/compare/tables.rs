//! The comparison as tables.

use super::{Comparison, Row, gap, model};
use crate::{
    schema::{Cache, CallbackKind},
    stats::SampledMean,
    summary::Marks,
    table::{Column, Table, count, figure, with_interval},
};

/// What two tables have in common: callbacks of one kind, over one page or several.
type Group = (CallbackKind, bool);

impl Comparison {
    /// Per callback kind and range the kernel's own callbacks; the cost models, the changes
    /// and the parts; then the synthetic callbacks beside the kernel's own, one by one. What
    /// their columns mean stands below the last.
    pub fn tables(&self) -> Vec<Table> {
        self.tables_where(|_| true)
    }

    /// Those of the tables whose titles `is_wanted` accepts.
    pub fn tables_where(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Table> {
        let mut groups: Vec<Group> = self.rows.iter().map(group).collect();
        groups.dedup();
        let mut tables: Vec<Table> = groups.iter().map(|g| self.real_table(*g)).collect();
        let mut models = model::table(&self.models, self.marks());
        if !models.is_empty() {
            models.note(self.young.note());
        }
        tables.push(models);
        let mut changes = gap::changes_table(&self.changes, self.marks());
        if let Some(note) = self.lock_wait().filter(|_| !changes.is_empty()) {
            changes.note(note);
        }
        tables.push(changes);
        tables.push(gap::parts_table(&self.parts));
        // The longest come last.
        tables.extend(groups.iter().map(|g| self.beside_table(*g)));
        tables.retain(|table| !table.is_empty() && is_wanted(table.title()));
        if let Some(last) = tables.last_mut() {
            // Its own notes may say some of it already.
            let mut notes = self.notes();
            notes.retain(|note| !last.notes().contains(note));
            notes.into_iter().for_each(|note| last.note(note));
        }
        tables
    }

    /// How schemes are marked in all of its tables.
    pub(crate) fn marks(&self) -> Marks<'_> {
        Marks {
            kernels_own: self.kernel_scheme,
            pass_over: &self.pass_over_chains,
        }
    }

    /// What schemes that take no mmu_lock save beside the walk, where the kernel takes it.
    fn lock_wait(&self) -> Option<String> {
        let without = &self.age_without_mmu_lock;
        let own = self.kernel_scheme?;
        let is_without = |scheme: &&String| self.changes.iter().any(|c| c.scheme == **scheme);
        let named: Vec<&str> = without
            .iter()
            .filter(is_without)
            .map(String::as_str)
            .collect();
        if named.is_empty() || without.iter().any(|scheme| scheme == own) {
            return None;
        }
        let names = named.join(", ");
        Some(match self.lock_wait_ns {
            Some(ns) => format!(
                "A recorded callback waited {ns:.1} ns for mmu_lock, in the mean of all kinds. \
                 {names} take none when they age and save that besides."
            ),
            None => format!(
                "{names} take no mmu_lock when they age and save waiting for it besides; how long \
                 the recorded callbacks waited was not observed."
            ),
        })
    }

    fn of_group(&self, wanted: Group) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| group(row) == wanted)
    }

    fn real_table(&self, group: Group) -> Table {
        let mut columns = vec![Column::text("SPTEs")];
        columns.extend(group.1.then(|| Column::number("pages")));
        columns.extend([
            Column::number("callbacks"),
            Column::number("samples"),
            Column::number("callback (ns)"),
            Column::number("rmap part (ns)"),
            Column::number("part/SPTE (ns)"),
        ]);
        let mut table = Table::new(format!("{}: the kernel's own", title(group)), columns);
        let mut seen: Vec<&Row> = Vec::new();
        for row in self.of_group(group) {
            if seen.iter().any(|other| other.is_beside(row)) {
                continue;
            }
            seen.push(row);
            let mut cells = vec![row.band.to_string()];
            cells.extend(group.1.then(|| figure(row.pages)));
            let sptes = row.pages * row.band.mean_len;
            let per_spte = row.real.walk.filter(|_| sptes > 0.0);
            cells.extend([
                count(row.real.callbacks),
                row.real.samples.map_or_else(dash, count),
                sampled(row.real.total),
                sampled(row.real.walk),
                sampled(per_spte.map(|walk| walk.over(sptes))),
            ]);
            table.row(cells);
        }
        table
    }

    fn beside_table(&self, group: Group) -> Table {
        let seen = |cache: &Cache| self.of_group(group).any(|row| row.at(*cache).is_some());
        let caches: Vec<Cache> = Cache::ALL.into_iter().filter(seen).collect();
        let mut columns = vec![Column::text("SPTEs"), Column::text("scheme")];
        columns.extend(caches.iter().map(|c| Column::number(format!("{c} (ns)"))));
        columns.push(Column::number("real part (ns)"));
        columns.extend(caches.iter().map(|c| Column::number(format!("part/{c}"))));
        let title = format!("{}: synthetic beside real", title(group));
        let mut table = Table::new(title, columns);
        for row in self.of_group(group) {
            let ns = |cache: &Cache| row.at(*cache).map_or_else(dash, ToString::to_string);
            let ratio = |cache: &Cache| {
                let ratio = row.ratio(*cache);
                ratio.map_or_else(dash, |(r, i)| with_interval(r, Some(i)))
            };
            let mut cells = vec![row.band.to_string(), self.marks().named(&row.scheme)];
            cells.extend(caches.iter().map(ns));
            cells.push(sampled(row.real.walk));
            cells.extend(caches.iter().map(ratio));
            table.row(cells);
        }
        table
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "SPTEs: chain length of a gfn seen at the callback; a range is shown with its mean. \
             hot, swept, llc, cold: median time of one synthetic callback, ± half of its 95 % interval: with everything cached; over a set as \
             large as the recorded test guest, in the order reclaim takes; scattered over a set that \
             the last-level cache holds and no other; with nothing cached. \
             callback: mean time of a real one; rmap part, real part: its time inside kvm_age_gfn or \
             kvm_test_age_gfn; both ± half of the 95 % interval. part/hot and so on: real part over \
             synthetic callback; part/SPTE: with all that the part costs before its first SPTE. \
             On both sides the SPTEs of a chain lie at one index of different shadow pages of 4 KiB. {}",
            self.young.note()
        )];
        if let Some(row) = self.rows.first() {
            let rate = self.rate_hz.map_or_else(String::new, |hz| {
                format!("; samples came at {hz:.0} Hz per CPU in the mean of all runs")
            });
            notes.push(format!(
                "real side measured by {}{rate}.",
                row.real.mechanism
            ));
        }
        if self.callbacks_left_out > 0 {
            notes.push(format!(
                "{} real callbacks at chain lengths too rare for a mean are left out.",
                count(self.callbacks_left_out)
            ));
        }
        if self.callbacks_alone > 0 {
            notes.push(format!(
                "{} real callbacks over ranges or chains that no synthetic cell reaches are left \
                 out.",
                count(self.callbacks_alone)
            ));
        }
        if let Some(scheme) = self.kernel_scheme
            && self.rows.iter().any(|row| row.scheme == scheme)
        {
            notes.push(format!("* {scheme} is what the recorded kernel does."));
        }
        let schemes = self.rows.iter().map(|row| row.scheme.as_str());
        notes.extend(self.marks().note(schemes).map(str::to_owned));
        notes.extend(self.sources.iter().cloned());
        if self.bench_host.label == self.profile_host.label {
            notes.push(format!("host of both sides: {}.", self.bench_host.label));
        } else {
            notes.push(format!("synthetic host: {}.", self.bench_host.label));
            notes.push(format!("recorded host: {}.", self.profile_host.label));
            notes.push("two hosts: absolute times do not compare.".to_owned());
        }
        notes.extend(self.cores.iter().cloned());
        notes.extend(self.profile_host.unusual.iter().map(|u| format!("{u}.")));
        notes
    }
}

fn group(row: &Row) -> Group {
    (row.kind, row.real.several_pages)
}

fn title((kind, several): Group) -> String {
    let range = if several { "several gfns" } else { "one gfn" };
    format!("{kind} over {range}")
}

fn dash() -> String {
    "-".to_owned()
}

fn sampled(mean: Option<SampledMean>) -> String {
    mean.map_or_else(dash, |m| {
        with_interval(m.mean_ns, Some((m.low_ns, m.high_ns)))
    })
}
