//! The guest on the live host: what it maps, and that a pause is one.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use guest::{Backing, Guest, GuestConfig, GuestError, live};

/// Asserts that exactly the data pages of `config` are mapped, besides what the guest itself needs.
///
/// Under shadow paging that is one SPTE per alias, and the guest's own are its code and its control
/// page: KVM reads the page tables, the guest does not. Under two-dimensional paging all aliases
/// of a page share one SPTE, and the CPU reads the page tables through SPTEs, too.
fn assert_mapped(config: &GuestConfig, sptes_4k: Option<u64>) {
    let sptes_4k = sptes_4k.expect("counted");
    let expected = mapped(config);
    assert!(
        expected.contains(&sptes_4k),
        "{config:?}: {sptes_4k} SPTEs of {expected:?}"
    );
}

/// How many SPTEs a guest may have, of which all are as many as it was asked to have.
fn mapped(config: &GuestConfig) -> RangeInclusive<u64> {
    if live::shadow_paging().is_ok() {
        let all = config.pages * config.aliases + 2;
        return all..=all;
    }
    let last_tables = config.aliases * config.pages.div_ceil(512);
    config.pages + 2 + last_tables..=config.pages + 15 + last_tables
}

fn start(config: GuestConfig) -> Guest {
    Guest::start(config).expect("the guest starts")
}

#[test]
fn exactly_the_pages_asked_for_are_mapped_through_every_alias() {
    let _alone = live::exclusive();
    let name = "exactly_the_pages_asked_for_are_mapped_through_every_alias";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    for aliases in [1, 4, 16, 64] {
        let config = GuestConfig::new(512, aliases);
        let report = start(config.clone()).stop().expect("stops");
        assert_mapped(&config, report.sptes_4k);
        assert!(report.passes >= 1);
        assert_eq!(report.exit_reason, "stopped by the host");
    }
}

#[test]
fn file_backed_pages_are_mapped_like_anonymous_ones() {
    let _alone = live::exclusive();
    let name = "file_backed_pages_are_mapped_like_anonymous_ones";
    let host = live::kvm().map_err(|error| error.to_string());
    let host = host.and_then(|()| live::disk().map_err(|error| error.to_string()));
    let Some(_) = live::require(name, host) else {
        return;
    };
    for write in [false, true] {
        let mut config = GuestConfig::new(700, 3);
        config.backing = Backing::File;
        config.write = write;
        let counted = || start(config.clone()).stop().expect("stops").sptes_4k;
        // Writing pages back to their file takes them out of the page tables, and the guest may
        // be stopped before it has been at all of them again; not every time.
        let mut sptes_4k = counted();
        for _ in 0..3 {
            if sptes_4k.is_some_and(|found| mapped(&config).contains(&found)) {
                break;
            }
            sptes_4k = counted();
        }
        assert_mapped(&config, sptes_4k);
    }
}

#[test]
fn a_paused_guest_does_nothing_and_a_resumed_one_goes_on() {
    let _alone = live::exclusive();
    let name = "a_paused_guest_does_nothing_and_a_resumed_one_goes_on";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    for idle in [Duration::ZERO, Duration::from_millis(1)] {
        let mut config = GuestConfig::new(512, 2);
        config.idle = idle;
        let guest = start(config);
        for _ in 0..20 {
            guest.pause().expect("pauses");
            let passes = guest.passes();
            thread::sleep(Duration::from_millis(5));
            assert_eq!(guest.passes(), passes, "a paused guest went on");
            guest.resume().expect("resumes");
            let deadline = Instant::now() + Duration::from_secs(20);
            while guest.passes() == passes {
                assert!(Instant::now() < deadline, "a resumed guest stands still");
                thread::sleep(Duration::from_millis(1));
            }
        }
        guest.stop().expect("stops");
    }
}

#[test]
fn a_guest_can_be_stopped_while_paused_and_dropped_while_running() {
    let _alone = live::exclusive();
    let name = "a_guest_can_be_stopped_while_paused_and_dropped_while_running";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    let guest = start(GuestConfig::new(8, 1));
    guest.pause().expect("pauses");
    guest.stop().expect("stops");
    drop(start(GuestConfig::new(8, 1)));
}

#[test]
fn a_start_can_be_cancelled_or_time_out() {
    let _alone = live::exclusive();
    let name = "a_start_can_be_cancelled_or_time_out";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    let config = GuestConfig::new(1 << 16, 16);
    let cancelled = Guest::start_unless(config.clone(), &|| true);
    assert!(matches!(cancelled, Err(GuestError::Cancelled)));
    let hasty = GuestConfig {
        pass_timeout: Duration::from_millis(1),
        ..config
    };
    assert!(matches!(
        Guest::start(hasty),
        Err(GuestError::PassTimeout { .. })
    ));
}

#[test]
fn a_guest_without_a_driver_says_so() {
    let _alone = live::exclusive();
    let Some(()) = live::require("a_guest_without_a_driver_says_so", live::kvm()) else {
        return;
    };
    let error = start(GuestConfig::new(8, 1))
        .drive_once()
        .expect_err("no driver");
    assert!(error.to_string().contains("has no driver"));
}

#[test]
fn a_nested_guest_has_both_mmus_and_pauses_like_any_other() {
    let _alone = live::exclusive();
    let name = "a_nested_guest_has_both_mmus_and_pauses_like_any_other";
    let Some(()) = live::where_possible(name, live::nested()) else {
        return;
    };
    for (aliases, write) in [(1, false), (4, true)] {
        let mut config = GuestConfig::new(512, aliases).nested();
        config.write = write;
        let guest = start(config.clone());
        guest.pause().expect("pauses");
        let passes = guest.passes();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.passes(), passes, "a paused L2 went on");
        guest.resume().expect("resumes");
        thread::sleep(Duration::from_millis(500));
        assert!(guest.passes() > passes, "a resumed L2 stands still");
        let report = guest.stop().expect("stops");
        assert_eq!(report.exit_reason, "stopped by the host");
        // One SPTE of the TDP MMU per page, and one in its rmap per alias; the rest is code,
        // control page and page tables.
        let data = config.pages * (config.aliases + 1);
        let sptes = report.sptes_4k.expect("counted");
        assert!((data..data + 64).contains(&sptes), "{config:?}: {sptes}");
    }
}

#[test]
fn a_host_that_runs_no_nested_guest_says_what_is_missing() {
    let _alone = live::exclusive();
    let name = "a_host_that_runs_no_nested_guest_says_what_is_missing";
    let Some(()) = live::require(name, live::kvm()) else {
        return;
    };
    let started = Guest::start(GuestConfig::new(8, 1).nested());
    match (live::nested(), started) {
        (Ok(()), started) => drop(started.expect("this host can")),
        (Err(_), Ok(_)) => panic!("a nested guest ran although it cannot"),
        (Err(probed), Err(error)) => {
            let text = error.to_string();
            assert_eq!(text, probed.to_string());
            assert!(
                text.starts_with("a nested guest cannot run here: "),
                "{text}"
            );
        }
    }
}
