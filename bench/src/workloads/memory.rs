//! `memory`: what it takes to keep a VM mapped.
//!
//! A VM is built while every allocation of the program is counted
//! ([`heap`](crate::heap)), which is the same for every subject: heads,
//! descriptors, tables, locks, empty room in hash maps and what the C library adds
//! to each block. `bytes_per_gfn` is all of it over the number of mapped pages;
//! `index_bytes_per_gfn` is what is left without the SPTEs themselves (8 bytes
//! each), which every subject has. Nothing about it is random: one round is
//! enough.

use anyhow::{Context as _, Result};
use report::schema::{Op, Params};

use crate::heap::Census;
use crate::plan::{Plan, Scale};
use crate::workload::{Cell, Measure, Measured, Reading, Tools, Workload};
use crate::workloads::vm::{self, Vm};

/// Pages of the VM.
const GFNS: u64 = 1 << 14;
/// Bytes of an SPTE.
const SPTE_BYTES: u64 = 8;

/// Chain lengths and how many of every 100 pages have each.
type Mix = &'static [(u32, u64)];

const QUICK: &[Mix] = &[
    &[(1, 100)],
    &[(2, 100)],
    &[(16, 100)],
    &[(0, 50), (1, 50)],
    &[(1, 90), (4, 9), (64, 1)],
];
const FULL: &[Mix] = &[
    &[(1, 100)],
    &[(2, 100)],
    &[(4, 100)],
    &[(16, 100)],
    &[(64, 100)],
    &[(0, 50), (1, 50)],
    &[(0, 99), (1, 1)],
    &[(1, 99), (2, 1)],
    &[(1, 90), (4, 9), (64, 1)],
];

/// The chain length of a page: the lengths of a mix come in turn, spread over
/// every 100 pages.
fn chain_len(mix: Mix, gfn: u64) -> u32 {
    // 61 and 100 have no divisor in common, so all 100 places are taken once.
    let place = gfn * 61 % 100;
    let mut end = 0;
    for &(len, percent) in mix {
        end += percent;
        if place < end {
            return len;
        }
    }
    0
}

fn longest(mix: Mix) -> u32 {
    mix.iter().map(|(len, _)| *len).max().unwrap_or(0)
}

/// The workload.
pub struct Memory;

impl Workload for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn summary(&self) -> &'static str {
        "bytes allocated per mapped page, by mix of chain lengths"
    }

    fn least_cpus(&self) -> usize {
        1
    }

    fn most_rounds(&self) -> u32 {
        1
    }

    fn cells(&self, plan: &Plan) -> Result<Vec<Cell>> {
        let mixes = match plan.scale {
            Scale::Quick => QUICK,
            Scale::Full => FULL,
        };
        let mut cells = Vec::new();
        for (family, &mix) in mixes.iter().enumerate() {
            for scheme in &plan.mutable_with(longest(mix)) {
                let scheme = scheme.clone();
                cells.push(MemoryCell { scheme, mix }.into_cell(family as u32));
            }
        }
        Ok(cells)
    }
}

struct MemoryCell {
    scheme: String,
    mix: Mix,
}

impl MemoryCell {
    fn into_cell(self, family: u32) -> Cell {
        let mut params = Params {
            level: Some(1),
            slot_pages: Some(GFNS),
            ..Params::default()
        };
        match self.mix {
            [(len, _)] => params.chain_len = Some(*len),
            mix => {
                let parts: Vec<String> = mix.iter().map(|(l, p)| format!("{l}:{p}")).collect();
                params.chain_mix = Some(parts.join(","));
            }
        }
        Cell {
            scheme: self.scheme.clone(),
            params,
            family,
            resident_bytes: vm::resident_bytes(GFNS, longest(self.mix)),
            measure: Box::new(self),
        }
    }
}

impl Measure for MemoryCell {
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let census = Census::start().context("another part of the program counts allocations")?;
        let vm = Vm::build_mixed(&self.scheme, GFNS, longest(self.mix), |gfn| {
            chain_len(self.mix, gfn)
        })?;
        let bytes = census.bytes() as f64;
        drop((vm, census));
        let lens = (0..GFNS).map(|gfn| chain_len(self.mix, gfn));
        let (mut mapped, mut sptes) = (0, 0);
        for len in lens.filter(|&len| len > 0) {
            mapped += 1;
            sptes += u64::from(len);
        }
        let index_bytes = bytes - (sptes * SPTE_BYTES) as f64;
        let per_gfn = |bytes: f64| bytes / f64::from(mapped);
        Ok(Measured {
            readings: vec![
                Reading::new(Op::Map, "bytes_per_gfn", per_gfn(bytes)),
                Reading::new(Op::Map, "index_bytes_per_gfn", per_gfn(index_bytes)),
            ],
            threads: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn a_mix_has_the_shares_it_names() {
        for &mix in FULL {
            assert_eq!(mix.iter().map(|(_, percent)| percent).sum::<u64>(), 100);
            for &(len, percent) in mix {
                let pages = (0..1000).filter(|&gfn| chain_len(mix, gfn) == len).count();
                assert_eq!(pages as u64, percent * 10);
            }
        }
    }

    #[test]
    fn an_rmap_takes_its_head_its_sptes_and_its_descriptors() {
        // Other tests may allocate or count meanwhile, not every time.
        let takes = |mix: Mix, least: f64, most: f64, sptes: f64| {
            let bytes = |_| {
                let mut cell = MemoryCell {
                    scheme: "rwlock-write".to_owned(),
                    mix,
                };
                let mut tools = Tools::of_tests();
                let readings = cell.measure(&mut tools).ok()?.readings;
                let [all, index] = [0, 1].map(|at: usize| readings[at].value);
                // What an index takes is the rest beside the SPTEs.
                assert!((all - index - sptes).abs() < 1e-9, "{all} {index}");
                Some(all)
            };
            let mut counted = (0..100).filter_map(bytes);
            counted.any(|bytes| (least..most).contains(&bytes))
        };
        // 8 for the head and 8 for the SPTE, and little for the levels above.
        assert!(takes(&[(1, 100)], 16.0, 18.0, 8.0));
        // And a descriptor of 128 bytes with its block's header, and another SPTE.
        assert!(takes(&[(2, 100)], 160.0, 180.0, 16.0));
        // A mapped page also bears the head and the room of one that is not.
        assert!(takes(&[(0, 50), (1, 50)], 32.0, 36.0, 8.0));
    }

    #[test]
    fn every_scheme_and_mix_is_a_cell() {
        let mut plan = plan();
        plan.schemes = vec!["bitlock".to_owned(), "rcu".to_owned()];
        assert_eq!(Memory.cells(&plan).unwrap().len(), QUICK.len() * 2);
    }
}
