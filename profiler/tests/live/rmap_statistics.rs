//! debugfs `mmu_rmaps_stat` against the census: where KVM's own histogram of chain
//! lengths files a chain.
//!
//! Its columns are called 0, 1, 2-3, 4-7 and so on. A chain of 7 SPTEs belongs into
//! 4-7, where the highest set bit of 7 says. Kernels before 7.0 go by the lowest set
//! bit, so every odd length is filed under 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::{
    census::census,
    common::{host, kernel_version, rmap_statistics},
};
use guest::{Guest, GuestConfig, live};
use report::schema::CensusRecord;

/// Heads per column; column 0 is for empty heads, column n for 2^(n-1) and more.
type Columns = BTreeMap<u32, u64>;

/// The line of 4K heads of the statistics.
fn columns_of_kvm(text: &str) -> Columns {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Level=4K:"))
        .expect("a line for 4K");
    let counts = line.split_whitespace().map(|n| n.parse().expect("a count"));
    (0..).zip(counts).filter(|(_, heads)| *heads != 0).collect()
}

/// The census filed by a bit of the length.
fn columns(census: &CensusRecord, column: fn(u32) -> u32) -> Columns {
    let mut columns = Columns::new();
    let mut filled = 0;
    for (&length, &heads) in census.lengths.iter().filter(|(length, _)| **length > 0) {
        *columns.entry(column(length)).or_default() += heads;
        filled += heads;
    }
    if census.heads > filled {
        columns.insert(0, census.heads - filled);
    }
    columns
}

fn by_lowest_bit(length: u32) -> u32 {
    length.trailing_zeros() + 1
}

fn by_highest_bit(length: u32) -> u32 {
    length.ilog2() + 1
}

/// What KVM calls a column.
fn named(column: u32) -> String {
    match column {
        0 | 1 => column.to_string(),
        _ => format!("{}-{}", 1 << (column - 1), (1u64 << column) - 1),
    }
}

#[test]
fn kvms_histogram_files_chains_by_their_length_only_from_7_0_on() {
    let _alone = live::exclusive();
    let name = "kvms_histogram_files_chains_by_their_length_only_from_7_0_on";
    let able = host().and_then(|()| live::shadow_paging());
    let Some(()) = live::require(name, able) else {
        return;
    };
    let is_corrected = kernel_version() >= (7, 0);
    for aliases in [3u32, 4, 6, 7, 15] {
        let guest = Guest::start(GuestConfig::new(512, u64::from(aliases)));
        let guest = guest.expect("the guest starts");
        guest.pause().expect("pauses");
        let Some(path) = live::where_possible(name, rmap_statistics()) else {
            return;
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                let reason = format!("{}: {error}", path.display());
                live::where_possible::<(), _>(name, Err(reason));
                return;
            }
        };
        let levels = census(&[]).levels;
        guest.stop().expect("stops");
        let level = levels.iter().find(|c| c.level == 1).expect("4K heads");
        let kvm = columns_of_kvm(&text);
        let (lowest, highest) = (by_lowest_bit(aliases), by_highest_bit(aliases));
        for column in BTreeSet::from([lowest, highest]) {
            let heads = |columns: &Columns| columns.get(&column).copied().unwrap_or(0);
            let by = [
                ("mmu_rmaps_stat", heads(&kvm)),
                ("census by length", heads(&columns(level, by_highest_bit))),
                (
                    "census by lowest bit",
                    heads(&columns(level, by_lowest_bit)),
                ),
            ];
            let column = named(column);
            let of = format!("512 heads of {aliases} SPTEs: column {column}");
            live::counted(name, &of, &by);
        }
        let filed = if is_corrected {
            by_highest_bit
        } else {
            by_lowest_bit
        };
        assert_eq!(kvm, columns(level, filed), "{aliases} aliases");
        if lowest != highest {
            let other = if is_corrected {
                by_lowest_bit
            } else {
                by_highest_bit
            };
            assert_ne!(kvm, columns(level, other), "{aliases} aliases");
        }
    }
}
