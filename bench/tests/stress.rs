//! Stress as a user meets it, and schemes with one promise broken that it must catch.

use std::{
    ops::ControlFlow,
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use bench::{
    signals::Signals,
    stress::{Plan, SchemeOutcome, stress},
};
use rmap::{
    LockKind, SchemeInfo,
    head::{Chain, HeadWord, RmapHead},
    scheme::{AgeOp, AgerContext, Scheme, walk_exclusive},
    schemes::{bitlock::Bitlock, single_recheck, single_skip},
    shadow_mmu::ShadowMmu,
};

/// The bit lock, but an rmap with one SPTE is aged without it and without keeping the
/// page; and now and then the ager is held up on its way from the head to the SPTE,
/// which an interrupt does too, only not when a test wants it.
enum FreesPagesTooEarly {}

static WALKS: AtomicU64 = AtomicU64::new(0);

// SAFETY: I-life for descriptors: chains are walked under the bit. It is broken for
// shadow pages, which are words inside the MMU that outlive every walk.
unsafe impl Scheme for FreesPagesTooEarly {
    type Guard<'a> = ();

    fn enter(_: AgerContext<'_>) {}

    fn walk((): &mut (), head: &RmapHead, op: &mut impl AgeOp) -> ControlFlow<()> {
        if let Chain::One(spte) = head.load_acquire().chain() {
            if WALKS.fetch_add(1, Relaxed).is_multiple_of(1000) {
                thread::sleep(Duration::from_micros(500));
            }
            // SAFETY: shadow pages are allocated as long as the MMU is.
            return op.visit(unsafe { spte.as_ref() });
        }
        let word = head.lock();
        // SAFETY: I-life: the bit keeps mutators out.
        let over = unsafe { walk_exclusive(head, word, op) };
        head.unlock(word);
        over
    }

    fn was_fast((): &()) -> bool {
        true
    }

    fn lock_for_edit(head: &RmapHead) -> HeadWord {
        Bitlock::lock_for_edit(head)
    }

    fn publish(head: &RmapHead, word: HeadWord) {
        Bitlock::publish(head, word);
    }
}

static FREES_PAGES_TOO_EARLY: SchemeInfo = SchemeInfo {
    name: "frees-pages-too-early",
    build: ShadowMmu::<FreesPagesTooEarly>::boxed,
    ..single_recheck::INFO
};

static CLAIMS_TO_BE_EXACT: SchemeInfo = SchemeInfo {
    name: "claims-to-be-exact",
    exact: true,
    consistent: true,
    ..single_skip::INFO
};

fn stressed(scheme: &'static SchemeInfo, time: Duration) -> SchemeOutcome {
    let plan = Plan {
        threads: 6,
        ops: u64::MAX,
        time,
        seed: 1,
        lock: LockKind::default(),
    };
    let signals = Signals::watch().unwrap();
    stress(scheme, &plan, &signals).unwrap()
}

#[test]
fn control_a_page_freed_under_an_ager_is_caught() {
    let outcome = stressed(&FREES_PAGES_TOO_EARLY, Duration::from_secs(60));
    let violation = outcome.violation.expect("the broken scheme was not caught");
    println!("after {:?}: {violation}", outcome.elapsed);
    assert!(violation.contains("I-life"), "{violation}");
}

#[test]
fn control_a_missed_young_page_is_caught() {
    let outcome = stressed(&CLAIMS_TO_BE_EXACT, Duration::from_secs(60));
    let violation = outcome.violation.expect("the broken scheme was not caught");
    assert!(violation.contains("I-young"), "{violation}");
}

fn command(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rmapscope-bench"));
    command.arg("stress").args(arguments).output().unwrap()
}

#[test]
fn i_chain_i_bit_i_life_i_young_and_i_zap_hold_in_every_sound_scheme() {
    let output = command(&["--ops=2e6", "--seconds=60", "--seed=5", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let sound = rmap::schemes().iter().filter(|s| s.sound);
    let lines: Vec<serde_json::Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines
            .iter()
            .map(|l| l["scheme"].as_str())
            .eq(sound.map(|s| Some(s.name)))
    );
    for line in lines {
        for count in ["callbacks", "installed", "zapped", "pages_reused", "checks"] {
            assert!(
                line[count].as_u64() > Some(0),
                "{count} never happened: {line}"
            );
        }
    }
}

#[test]
fn a_bad_request_is_one_sentence_and_status_2() {
    for bad in [
        &["--scheme=nope"][..],
        &["--ops=0"],
        &["--ops=many"],
        &["--seconds=0"],
        &["--threads=2"],
        &["--mmu-lock=nope"],
    ] {
        let output = command(bad);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {stderr}");
        assert!(stderr.contains("error:"), "{bad:?}: {stderr}");
    }
}
