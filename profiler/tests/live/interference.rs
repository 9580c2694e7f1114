//! Costs at sampling rate zero, and what aging and vCPUs do to each other.

use std::time::Duration;

use crate::common::{Ended, Recording, callbacks, exact_host, host, reclaim_host};
use guest::{Driver, Guest, GuestConfig, live};
use nix::sys::signal::Signal;
use report::{
    Observed,
    latency::Latency,
    schema::{CostRecord, HeldUp, InterferenceRecord, Record},
};

/// Records for a while, with the guest reclaimed as it runs.
fn reclaimed(arguments: &[&str], pages: u64, time: Duration) -> Ended {
    let config = GuestConfig::new(pages, 2).with_driver(Driver::Reclaim);
    recorded(arguments, config, time)
}

/// Records for a while, with the guest aged by its driver.
fn recorded(arguments: &[&str], config: GuestConfig, time: Duration) -> Ended {
    let mut guest = Guest::start(config).expect("the guest starts");
    let recording = Recording::start(arguments);
    guest.start_driving().expect("drives");
    std::thread::sleep(time);
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    ended
}

#[test]
fn two_sampling_rates_take_turns_and_tell_the_cost_at_none() {
    let _alone = live::exclusive();
    let name = "two_sampling_rates_take_turns_and_tell_the_cost_at_none";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    // Held while it is aged and aged without a pause: as many callbacks as there can be.
    let mut config = GuestConfig::new(8192, 1).with_driver(Driver::Reclaim);
    config.hold = true;
    config.driver_pause = Duration::ZERO;
    let arguments = ["--mechanism", "sampled"];
    let ended = recorded(&arguments, config, Duration::from_secs(25));
    let file = ended.file();
    let rates: Vec<(f64, f64, u64)> = file
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Run(run) => Some((run, run.sampling.value()?)),
            _ => None,
        })
        .map(|(run, s)| (s.asked_hz, run.duration_s, s.samples))
        .collect();
    assert_eq!(rates.len(), 2, "{rates:?}");
    assert_eq!((rates[0].0, rates[1].0), (3989.0, 997.0));
    assert!(
        rates.iter().all(|(_, s, samples)| *s > 2.0 && *samples > 0),
        "both had turns: {rates:?}"
    );
    let costs: Vec<&CostRecord> = file
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Cost(cost) => Some(cost),
            _ => None,
        })
        .collect();
    println!("{costs:?}");
    let zero = costs.iter().filter_map(|cost| {
        let (raw, zero) = (cost.raw.value()?, cost.rate_zero.value()?);
        Some((raw, zero))
    });
    let zero: Vec<_> = zero.collect();
    assert!(!zero.is_empty(), "no chain length has both: {costs:?}");
    for (raw, zero) in zero {
        assert!(zero.low_ns <= zero.mean_ns && zero.mean_ns <= zero.high_ns);
        let raw_width = raw.high_ns - raw.low_ns;
        assert!(zero.high_ns - zero.low_ns > raw_width, "it costs precision");
        // Not far from what was seen: sampling adds some percent at these rates.
        assert!(zero.low_ns < raw.high_ns && zero.high_ns > raw.low_ns * 0.8);
    }
}

/// Faults or waits of one kind, while aging ran and while not, over all runs.
fn held_up(ended: &Ended, wanted: HeldUp) -> (Observed<Latency>, Observed<Latency>) {
    let records = ended
        .file()
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Interference(record) if record.what == wanted => Some(&**record),
            _ => None,
        });
    let sum = |of: fn(&InterferenceRecord) -> &Observed<Latency>,
               records: &[&InterferenceRecord]| {
        let mut sum = Latency::new();
        for record in records {
            match of(record) {
                Observed::Value(times) => sum.merge(times),
                missing @ Observed::Missing(_) => return missing.clone(),
            }
        }
        Observed::Value(sum)
    };
    let records: Vec<_> = records.collect();
    assert!(!records.is_empty(), "{wanted:?} is not in the file");
    let aging = sum(|r| &r.while_aging, &records);
    (aging, sum(|r| &r.not_aging, &records))
}

fn shown(times: &Observed<Latency>) -> String {
    match times {
        Observed::Value(times) => format!("{:?}", times.summary()),
        Observed::Missing(reason) => reason.clone(),
    }
}

#[test]
fn waits_for_mmu_lock_are_seen_and_what_is_not_seen_says_why() {
    let _alone = live::exclusive();
    let name = "waits_for_mmu_lock_are_seen_and_what_is_not_seen_says_why";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let ended = reclaimed(&[], 512, Duration::from_secs(6));
    let waits = [HeldUp::FaultWait, HeldUp::AgingWait, HeldUp::OtherWait];
    let mut seen = 0;
    for what in waits {
        let (aging, not) = held_up(&ended, what);
        println!("{what}: {} {}", shown(&aging), shown(&not));
        for times in [aging, not] {
            match times {
                Observed::Value(times) => seen += times.count(),
                Observed::Missing(reason) => assert!(!reason.is_empty()),
            }
        }
    }
    println!("{seen} waits");
    let (faults, _) = held_up(&ended, HeldUp::Fault);
    match faults {
        Observed::Value(times) => assert!(times.count() > 0, "reclaimed pages are faulted in"),
        Observed::Missing(reason) => assert!(!reason.is_empty()),
    }
    let left_out = reclaimed(&["--no-interference"], 256, Duration::from_millis(300));
    let (waits, _) = held_up(&left_out, HeldUp::FaultWait);
    assert!(
        waits
            .reason()
            .is_some_and(|why| why.contains("--no-interference"))
    );
}

#[test]
fn every_fault_of_a_vcpu_is_timed_and_filed_by_whether_aging_ran() {
    let _alone = live::exclusive();
    let name = "every_fault_of_a_vcpu_is_timed_and_filed_by_whether_aging_ran";
    let able = exact_host().and_then(|()| reclaim_host());
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let pages = 256;
    let ended = reclaimed(&[], pages, Duration::from_secs(5));
    let (aging, not) = held_up(&ended, HeldUp::Fault);
    let counts = [aging, not].map(|times| times.value().expect("faults are seen").count());
    println!("{counts:?} faults while aging and while not");
    assert!(callbacks(ended.file()).next().is_some(), "nothing was aged");
    // Every page that is taken is faulted in again; some of it right after it was aged. How
    // many are taken in the time of the recording is the machine's speed.
    assert!(counts[0] > 0, "{counts:?}");
    assert!(counts[0] + counts[1] >= pages / 4, "{counts:?}");
    for record in &ended.file().records {
        if let Record::Loss(loss) = record
            && loss.signal == "vCPU faults"
        {
            // A fault that runs when probes are attached or detached has one end only.
            let lost = *loss.count.value().expect("counted");
            assert!(lost <= 2, "{}: {lost}", loss.cause);
        }
    }
}

#[test]
fn faults_of_a_guest_that_nobody_ages_are_filed_as_such() {
    let _alone = live::exclusive();
    let name = "faults_of_a_guest_that_nobody_ages_are_filed_as_such";
    let Some(()) = live::where_possible(name, exact_host().and_then(|()| host())) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(512, 1)).expect("the guest starts");
    let recording = Recording::start(&[]);
    // Its SPTEs go when its memory moves: pages that are dropped are faulted in again.
    guest.discard().expect("pages are dropped");
    std::thread::sleep(Duration::from_secs(1));
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    let (aging, not) = held_up(&ended, HeldUp::Fault);
    let counts = [aging, not].map(|times| times.value().expect("faults are seen").count());
    println!("{counts:?} faults while aging and while not");
    assert!(counts[1] >= 512, "{counts:?}");
    assert!(counts[0] * 20 <= counts[1], "nobody aged it: {counts:?}");
}
