//! The runner against cells that only write down when they were called.

use std::sync::{Arc, Mutex};

use report::schema::Params;

use super::*;
use crate::disturb::ThreadDisturbance;
use crate::plan::tests::plan;
use crate::workload::Measure;

type Log = Arc<Mutex<Vec<usize>>>;

struct Probe {
    id: usize,
    log: Log,
    missing_counter: bool,
    migrated: bool,
    built: Log,
    stop: Stop,
}

/// After how many measurements the run is asked to stop, and how.
type Stop = (usize, Arc<AtomicBool>);

impl Measure for Probe {
    fn prepare(&mut self) -> Result<()> {
        self.built.lock().unwrap().push(self.id);
        Ok(())
    }

    fn measure(&mut self, _: &mut Tools) -> Result<Measured> {
        let measured = {
            let mut log = self.log.lock().unwrap();
            log.push(self.id);
            log.len()
        };
        if measured == self.stop.0 {
            self.stop.1.store(true, Ordering::Relaxed);
        }
        let mut latency = Latency::new();
        latency.record_ns(self.id as u64 + 1);
        let counted = if self.missing_counter && measured > 3 {
            Observed::missing("gone")
        } else {
            Observed::Value(2.0)
        };
        let reading = Reading {
            op: Op::Age,
            metric: "ns_per_callback",
            value: self.id as f64,
            latency: Some(latency),
            counts: Some(Counts {
                hits: 1,
                trials: 10,
            }),
            counters: vec![("cycles", counted)],
        };
        let thread = ThreadDisturbance {
            involuntary_switches: Observed::Value(0),
            migrations: Observed::Value(u64::from(self.migrated)),
            wait_share: Observed::Value(0.0),
        };
        Ok(Measured {
            readings: vec![reading],
            threads: vec![thread],
        })
    }
}

struct Fake {
    log: Log,
    cells: usize,
    resident_bytes: u64,
    missing_counter: bool,
    migrated: bool,
    built: Log,
    stop: Stop,
    most_rounds: u32,
}

impl Workload for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn summary(&self) -> &'static str {
        "writes down its calls"
    }

    fn least_cpus(&self) -> usize {
        1
    }

    fn most_rounds(&self) -> u32 {
        self.most_rounds
    }

    fn cells(&self, _: &Plan) -> Result<Vec<Cell>> {
        let cell = |id| Cell {
            scheme: format!("scheme-{id}"),
            params: Params::default(),
            family: id as u32 / 2,
            resident_bytes: self.resident_bytes,
            measure: Box::new(Probe {
                id,
                log: Arc::clone(&self.log),
                missing_counter: self.missing_counter,
                migrated: self.migrated,
                built: Arc::clone(&self.built),
                stop: self.stop.clone(),
            }),
        };
        Ok((0..self.cells).map(cell).collect())
    }
}

fn fake(cells: usize) -> Fake {
    Fake {
        log: Log::default(),
        cells,
        resident_bytes: 0,
        missing_counter: false,
        migrated: false,
        built: Log::default(),
        stop: (usize::MAX, Arc::default()),
        most_rounds: u32::MAX,
    }
}

fn run(workload: &Fake, rounds: u32, seed: u64, stop: &AtomicBool) -> Result<Outcome> {
    let mut plan = plan();
    plan.rounds = rounds;
    let mut session = Session {
        later: Duration::ZERO,
        plan: &plan,
        stop,
        watch: RunWatch::start(plan.cpus.as_slice()),
        rng: Rng::new(seed),
        tools: Tools::of_tests(),
    };
    session.run(workload)
}

#[test]
fn every_round_measures_every_cell_once_in_a_new_order() {
    let workload = fake(8);
    let outcome = run(&workload, 5, 42, &AtomicBool::new(false)).unwrap();
    assert!(outcome.complete);
    let log = workload.log.lock().unwrap();
    let rounds: Vec<_> = log.chunks(8).collect();
    assert_eq!(rounds.len(), 5);
    for round in &rounds {
        let mut seen = round.to_vec();
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
    }
    assert!(
        rounds.windows(2).all(|pair| pair[0] != pair[1]),
        "{rounds:?}"
    );
}

#[test]
fn the_seed_decides_the_order() {
    let order = |seed| {
        let workload = fake(8);
        run(&workload, 3, seed, &AtomicBool::new(false)).unwrap();
        std::mem::take(&mut *workload.log.lock().unwrap())
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn a_record_holds_one_value_per_round_and_all_latencies() {
    let outcome = run(&fake(3), 6, 1, &AtomicBool::new(false)).unwrap();
    assert_eq!(outcome.records.len(), 3);
    let record = &outcome.records[2];
    assert_eq!(
        (record.scheme.as_str(), record.workload.as_str()),
        ("scheme-2", "fake")
    );
    assert_eq!(record.rounds, [2.0; 6]);
    assert_eq!(record.summary.value().unwrap().n, 6);
    assert_eq!(record.latency.as_ref().unwrap().count(), 6);
    assert_eq!(
        record.counts,
        Some(Counts {
            hits: 6,
            trials: 60
        })
    );
    assert_eq!(record.counters["cycles"], Observed::Value(2.0));
}

#[test]
fn a_counter_missing_in_one_round_is_missing_in_the_record() {
    let workload = Fake {
        missing_counter: true,
        ..fake(1)
    };
    let outcome = run(&workload, 6, 1, &AtomicBool::new(false)).unwrap();
    assert_eq!(
        outcome.records[0].counters["cycles"],
        Observed::missing("gone")
    );
}

#[test]
fn figures_whose_threads_were_moved_are_marked() {
    let workload = Fake {
        migrated: true,
        ..fake(1)
    };
    let outcome = run(&workload, 6, 1, &AtomicBool::new(false)).unwrap();
    assert!(outcome.records[0].spoiled.is_some());
}

#[test]
fn a_run_ended_early_keeps_what_was_measured() {
    let stop = Arc::new(AtomicBool::new(false));
    let workload = Fake {
        stop: (6, Arc::clone(&stop)),
        ..fake(4)
    };
    let outcome = run(&workload, 5, 1, &stop).unwrap();
    assert!(!outcome.complete);
    let measured = workload.log.lock().unwrap().len();
    let kept: usize = outcome.records.iter().map(|r| r.rounds.len()).sum();
    assert_eq!((measured, kept, outcome.records.len()), (6, 6, 4));
}

#[test]
fn a_run_ended_before_it_began_builds_nothing() {
    let workload = fake(4);
    let outcome = run(&workload, 5, 1, &AtomicBool::new(true)).unwrap();
    assert!(!outcome.complete && outcome.records.is_empty());
    assert!(workload.built.lock().unwrap().is_empty());
}

#[test]
fn what_needs_one_round_gets_one() {
    let workload = Fake {
        most_rounds: 1,
        ..fake(3)
    };
    let outcome = run(&workload, 5, 1, &AtomicBool::new(false)).unwrap();
    assert!(outcome.complete);
    assert_eq!(workload.log.lock().unwrap().len(), 3);
}

#[test]
fn cells_that_do_not_fit_together_are_measured_in_batches_of_whole_families() {
    let workload = Fake {
        resident_bytes: 10,
        ..fake(10)
    };
    let sizes = |usable| {
        let batches = batches(&workload, &plan(), usable).map_err(|e| e.to_string())?;
        Ok::<_, String>(batches.iter().map(Vec::len).collect::<Vec<_>>())
    };
    assert_eq!(sizes(u64::MAX), Ok(vec![10]));
    assert_eq!(sizes(59), Ok(vec![4, 4, 2]));
    assert_eq!(sizes(20), Ok(vec![2; 5]));
    assert!(sizes(19).is_err());
}

#[test]
fn working_sets_that_do_not_fit_are_refused_before_anything_is_built() {
    let workload = Fake {
        resident_bytes: 1 << 50,
        ..fake(2)
    };
    let error = run(&workload, 1, 1, &AtomicBool::new(false)).err().unwrap();
    assert!(error.to_string().contains("MiB"), "{error}");
    assert!(workload.log.lock().unwrap().is_empty());
}
