//! What a recording says is what the kernel did.

use crate::common::{Recording, callbacks, host, losses, reclaim_host};
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
    let config = GuestConfig::new(2048, 4).with_driver(Driver::Reclaim);
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
    let recorded: u64 = of_reclaim.map(|r| r.callbacks).sum();
    assert!(counts.age > 2048, "{counts:?}");
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
        assert!(record.pages >= record.callbacks, "{record:?}");
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
