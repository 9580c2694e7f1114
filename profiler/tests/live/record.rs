//! What a recording says is what the kernel did.

use std::collections::BTreeSet;

use crate::common::{Recording, callbacks, host, losses, reclaim_host, rmapscope, stderr};
use guest::{
    Driver, Guest, GuestConfig, live,
    tracefs::{EventCounter, EventFilter},
};
use nix::sys::signal::Signal;
use report::schema::{CallbackKind, CallerClass, ChainLen, Outcome, Record};

/// Every event of this thread, wherever its range lies.
fn this_thread() -> EventFilter {
    let tid = u32::try_from(nix::unistd::gettid().as_raw()).expect("a thread");
    EventFilter {
        hva: 0..1 << 62,
        tid: Some(tid),
        not_comm: None,
    }
}

#[test]
fn every_callback_that_tracefs_counts_is_in_the_recording() {
    let _alone = live::exclusive();
    let name = "every_callback_that_tracefs_counts_is_in_the_recording";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    // No more: while it runs, all of it is looked at hundreds of times until it is taken.
    let size = 512;
    let config = GuestConfig::new(size, 4).with_driver(Driver::Reclaim);
    let guest = Guest::start(config).expect("the guest starts");
    let recording = Recording::start(&["--event-every", "64"]);
    let counter = EventCounter::start(&this_thread()).expect("events are counted");
    guest.drive_once().expect("reclaims");
    let counts = counter.counts().expect("counts");
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");

    // MGLRU, where it is on, walks page tables on behalf of a memcg's reclaim, and looks
    // around at the neighbours of a page that is young.
    let reclaim = |r: &&_| {
        let r: &report::schema::CallbackRecord = r;
        let walks = [CallerClass::Mglru, CallerClass::Lookaround];
        r.caller == CallerClass::Memcg || walks.contains(&r.caller)
    };
    let of_reclaim = callbacks(ended.file()).filter(reclaim);
    let (recorded, pages) = of_reclaim.fold((0, 0), |(callbacks, pages), r| {
        (callbacks + r.callbacks, pages + r.pages)
    });
    // One callback asks for all pages of a large folio where the kernel does so.
    assert!(pages > size, "{pages} pages, {counts:?}");
    // Of all runs together: one whose counts are read while a callback is counted may have
    // it without its pages.
    assert!(pages >= recorded, "{pages} pages, {counts:?}");
    let callers: Vec<_> = callbacks(ended.file())
        .map(|r| (r.caller, r.kind, r.callbacks))
        .collect();
    let by = [("rmapscope", recorded), ("tracefs", counts.age)];
    live::counted(name, "clearing callbacks of reclaim, guest running", &by);
    assert_eq!(
        recorded, counts.age,
        "of this thread's reclaim: {callers:?}"
    );
    for (cause, count) in losses(ended.file()) {
        assert_eq!(count, 0, "{cause}");
    }
    for record in callbacks(ended.file()).filter(reclaim) {
        let asks = match record.caller {
            CallerClass::Memcg => CallbackKind::ClearFlushYoung,
            _ => CallbackKind::ClearYoung,
        };
        assert_eq!(record.kind, asks, "{callers:?}");
        let most = if record.several_pages { 4 * 512 } else { 4 };
        let has_length = match record.chain_len {
            ChainLen::Exact(length) => length <= most,
            ChainLen::AtLeast(_) => record.several_pages,
            other => other == ChainLen::NoRmap,
        };
        assert!(has_length, "{record:?}");
    }
}

#[test]
fn khugepaged_is_told_from_reclaim_and_finds_chains_as_long_as_asked_for() {
    let _alone = live::exclusive();
    let name = "khugepaged_is_told_from_reclaim_and_finds_chains_as_long_as_asked_for";
    let able = host()
        .and_then(|()| live::shadow_paging().map_err(|error| error.to_string()))
        .and_then(|()| live::khugepaged().map_err(|error| error.to_string()));
    let Some(()) = live::require(name, able) else {
        return;
    };
    let config = GuestConfig::new(1024, 20).with_driver(Driver::Khugepaged);
    let guest = Guest::start(config).expect("the guest starts");
    let recording = Recording::start(&[]);
    guest.drive_once().expect("khugepaged looks");
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    let looked: Vec<_> = callbacks(ended.file())
        .filter(|r| r.caller == CallerClass::Khugepaged)
        .collect();
    assert!(!looked.is_empty(), "khugepaged was not seen");
    for record in looked {
        assert_eq!(record.kind, CallbackKind::TestYoung);
        assert_eq!(record.chain_len, ChainLen::Exact(20), "{record:?}");
    }
}

#[test]
fn a_signal_ends_a_recording_and_keeps_what_there_is() {
    let _alone = live::exclusive();
    let name = "a_signal_ends_a_recording_and_keeps_what_there_is";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let ended = Recording::start(&[]).end(Some(signal));
        assert_eq!(ended.code, Some(code), "{}", ended.said);
        assert_eq!(ended.file().end.outcome, Outcome::Partial);
        assert_eq!(ended.left.len(), 1, "{:?}", ended.left);
    }
    guest.stop().expect("stops");
}

#[test]
fn the_rate_reached_is_one_of_each_cpu_also_in_the_last_stretch() {
    let _alone = live::exclusive();
    let name = "the_rate_reached_is_one_of_each_cpu_also_in_the_last_stretch";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    // One rate is one stretch, which ends when the programs are detached.
    let options = ["--mechanism", "sampled", "--rate", "997"];
    let ended = Recording::lasting("1s", &options).end(None);
    guest.stop().expect("stops");
    let run = ended.file().records.iter().find_map(|r| match r {
        Record::Run(run) => Some(run),
        _ => None,
    });
    let run = run.expect("it was recorded");
    let sampling = run.sampling.value().expect("it was sampled");
    assert!(sampling.samples > 0, "{sampling:?}");
    // An idle CPU takes no samples, so what was asked for is no measure.
    let cpus = aya::util::online_cpus().expect("CPUs").len();
    let of_each = sampling.samples as f64 / run.duration_s / cpus as f64;
    let off = (sampling.reached_hz / of_each - 1.0).abs();
    assert!(
        off < 0.01,
        "{sampling:?}, {of_each} Hz on each of {cpus} CPUs"
    );
}

#[test]
fn a_vm_that_ends_is_closed_in_the_record() {
    let _alone = live::exclusive();
    let name = "a_vm_that_ends_is_closed_in_the_record";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let recording = Recording::start(&[]);
    guest.stop().expect("stops");
    let ended = recording.end(None);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(
        ended.said.contains("the recorded VM ended"),
        "{}",
        ended.said
    );
    assert_eq!(ended.file().end.outcome, Outcome::Partial);
    let vms: Vec<_> = ended
        .file()
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Vm(vm) => Some(vm),
            _ => None,
        })
        .collect();
    // One VM, in the run of each sampling rate.
    assert!(!vms.is_empty());
    for vm in vms {
        assert_eq!((vm.vm, vm.pid), (0, std::process::id()));
        assert!(vm.gone_s.is_some());
    }
}

#[test]
fn two_recordings_at_once_see_the_same_callbacks() {
    let _alone = live::exclusive();
    let name = "two_recordings_at_once_see_the_same_callbacks";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    let config = GuestConfig::new(2048, 2).with_driver(Driver::Reclaim);
    let guest = Guest::start(config).expect("the guest starts");
    let recordings = [Recording::start(&[]), Recording::start(&["--rate", "97"])];
    for _ in 0..2 {
        guest.drive_once().expect("reclaims");
    }
    let counts = recordings.map(|recording| {
        let ended = recording.end(Some(Signal::SIGINT));
        for (cause, count) in losses(ended.file()) {
            assert_eq!(count, 0, "{cause}");
        }
        let of_reclaim = callbacks(ended.file())
            .filter(|r| matches!(r.caller, CallerClass::Memcg | CallerClass::Mglru));
        of_reclaim.map(|r| r.callbacks).sum::<u64>()
    });
    guest.stop().expect("stops");
    assert!(counts[0] > 2048, "{counts:?}");
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn two_recordings_into_one_file_both_keep_what_they_saw() {
    let _alone = live::exclusive();
    let name = "two_recordings_into_one_file_both_keep_what_they_saw";
    let Some(()) = live::require(name, host()) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("profile.jsonl");
    let start = || {
        rmapscope()
            .args(["record", "--quiet", "--duration", "3s", "--pid"])
            .arg(std::process::id().to_string())
            .arg("--output")
            .arg(&path)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("it starts")
    };
    let both = [start(), start()].map(|child| child.wait_with_output().expect("it ends"));
    guest.stop().expect("stops");
    let said: Vec<String> = both.iter().map(stderr).collect();
    assert!(
        both.iter().all(|output| output.status.success()),
        "{said:?}"
    );
    let beside = folder.path().join("profile-2.jsonl");
    let told = said.iter().filter(|said| said.contains("profile-2.jsonl"));
    assert_eq!(told.count(), 1, "{said:?}");
    for path in [path, beside] {
        let file = report::ResultFile::read(&path).expect("a result");
        assert_eq!(file.end.outcome, Outcome::Complete);
    }
}

/// VMs that come, are reclaimed and go: all are closed in the record, and none of their
/// callbacks is filed under the one that stays. (Between two looks for VMs one that
/// starts where another ended is taken for that one: docs/limitations.md.)
#[test]
fn a_hundred_vms_that_end_leave_no_callback_with_one_that_stays() {
    const VMS: usize = 100;
    const PAGES: u64 = 64;
    /// One VM in this many lives until it is found.
    const WAITS: usize = 10;
    let _alone = live::exclusive();
    let name = "a_hundred_vms_that_end_leave_no_callback_with_one_that_stays";
    let Some(()) = live::require(name, reclaim_host()) else {
        return;
    };
    // Keeps the recording alive and is never aged by us.
    let idle = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    // At one rate, so that nothing is settled but for the VMs that end.
    let mut recording = Recording::lasting("1000s", &["--verbose", "--rate", "997"]);
    for number in 0..VMS {
        let waits = number % WAITS == 0;
        if waits {
            // One that starts where another is not yet known to have ended is
            // taken for that one.
            recording.await_vms(1);
        }
        let config = GuestConfig::new(PAGES, 1).with_driver(Driver::Reclaim);
        let guest = Guest::start(config).expect("the guest starts");
        if waits {
            recording.await_vms(2);
        }
        guest.drive_once().expect("reclaims");
        guest.stop().expect("stops");
    }
    // The end of the last is seen at the next look.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let ended = recording.end(Some(Signal::SIGINT));
    let idle_memory = idle.memory();
    idle.stop().expect("stops");
    let vms = ended
        .file()
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Vm(vm) => Some((vm.vm, vm.gone_s)),
            _ => None,
        });
    // Each sampling rate is a run of its own, with all VMs.
    let alive: BTreeSet<u32> = vms
        .filter(|(_, gone)| gone.is_none())
        .map(|(vm, _)| vm)
        .collect();
    assert_eq!(alive.len(), 1, "all but one have ended: {alive:?}");
    let wrong: Vec<_> = callbacks(ended.file())
        .filter(|r| r.vm.is_some_and(|vm| alive.contains(&vm)))
        .filter(|r| matches!(r.caller, CallerClass::Memcg | CallerClass::Mglru))
        .collect();
    assert!(wrong.is_empty(), "{idle_memory:x?}: {wrong:?}");
    let of_one = |vm| callbacks(ended.file()).filter(move |r| r.vm == Some(vm));
    let gone = ended
        .file()
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Vm(vm) if vm.gone_s.is_some() => Some(vm.vm),
            _ => None,
        });
    let mut seen = 0;
    for vm in gone.collect::<BTreeSet<u32>>() {
        let callbacks: u64 = of_one(vm)
            .filter(|r| matches!(r.caller, CallerClass::Memcg | CallerClass::Mglru))
            .map(|r| r.callbacks)
            .sum();
        seen += usize::from(callbacks > 0);
    }
    println!("{seen} of {VMS} VMs were found and aged");
    assert!(seen >= VMS / WAITS / 2, "{seen}");
    // What was counted of them was kept, and their places in the maps are others' now.
    let freed = ended.said.contains("VMs that ended are free again");
    assert!(freed, "{}", ended.said);
}
