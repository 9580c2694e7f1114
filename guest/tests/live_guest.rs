//! The guest on the live host: what it maps, and that a pause is one.

use std::thread;
use std::time::Duration;

use guest::{Backing, Guest, GuestConfig, GuestError, live};

/// SPTEs of the guest's own: its code and its control page. The page tables are read by KVM and
/// not by the guest, so they have none.
const OWN_SPTES: u64 = 2;

fn start(config: GuestConfig) -> Guest {
    Guest::start(config).expect("the guest starts")
}

#[test]
fn every_alias_of_every_page_has_an_spte() {
    let _alone = live::exclusive();
    let name = "every_alias_of_every_page_has_an_spte";
    let host = live::kvm()
        .map_err(|error| error.to_string())
        .and_then(|()| live::shadow_paging());
    let Some(()) = live::require(name, host) else {
        return;
    };
    for aliases in [1, 4, 16, 64] {
        let guest = start(GuestConfig::new(512, aliases));
        let report = guest.stop().expect("stops");
        assert_eq!(report.sptes_4k, Some(512 * aliases + OWN_SPTES));
        assert!(report.passes >= 1);
        assert_eq!(report.exit_reason, "stopped by the host");
    }
}

#[test]
fn file_backed_pages_are_mapped_like_anonymous_ones() {
    let _alone = live::exclusive();
    let name = "file_backed_pages_are_mapped_like_anonymous_ones";
    let host = live::kvm()
        .map_err(|error| error.to_string())
        .and_then(|()| live::shadow_paging())
        .and_then(|()| live::disk().map(drop).map_err(|error| error.to_string()));
    let Some(()) = live::require(name, host) else {
        return;
    };
    for write in [false, true] {
        let mut config = GuestConfig::new(700, 3);
        config.backing = Backing::File;
        config.write = write;
        let report = start(config).stop().expect("stops");
        assert_eq!(report.sptes_4k, Some(700 * 3 + OWN_SPTES), "write: {write}");
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
            thread::sleep(Duration::from_millis(20));
            assert!(guest.passes() > passes, "a resumed guest stands still");
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
