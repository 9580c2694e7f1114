//! What is counted, and what is missing with its reason.

use super::*;

fn burn() -> u64 {
    (0..2_000_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i))
}

fn value(readings: &[Reading], name: &str) -> Observed<f64> {
    readings
        .iter()
        .find(|r| r.0 == name)
        .expect("every name is reported")
        .1
        .clone()
}

#[test]
fn every_name_is_reported_with_a_value_or_a_reason() {
    let mut set = CounterSet::open();
    set.around(burn);
    let readings = set.per_operation(1);
    for name in names().chain([RUNNING_SHARE]) {
        let reading = value(&readings, name);
        assert!(reading.value().is_some() || reading.reason().is_some_and(|r| r.len() > 10));
    }
}

#[test]
fn a_machine_without_the_event_gives_null_and_not_zero() {
    let mut set = CounterSet::open();
    set.around(burn);
    match value(&set.per_operation(1), "instructions") {
        Observed::Value(count) => assert!(count > 1e6, "{count}"),
        Observed::Missing(reason) => assert!(!reason.is_empty()),
    }
}

#[test]
fn what_is_missing_from_the_start_is_what_every_reading_lacks() {
    let mut set = CounterSet::open();
    let missing = set.missing();
    set.around(burn);
    for (name, reading) in set.per_operation(1) {
        match missing.get(name) {
            Some(reason) => assert_eq!(reading.reason(), Some(reason.as_str()), "{name}"),
            None => assert!(reading.value().is_some(), "{name}: {reading:?}"),
        }
    }
}

#[test]
fn software_counters_include_the_kernels_part() {
    let mut set = CounterSet::open();
    set.start();
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    set.stop();
    match value(&set.per_operation(1), "context-switches") {
        Observed::Value(count) => assert!(count >= 10.0, "{count}"),
        Observed::Missing(reason) => assert!(reason.contains("permitted"), "{reason}"),
    }
}

#[test]
fn a_disturbed_empty_stretch_is_charged_to_no_measurement() {
    let stretch = |switches: f64| -> Vec<Reading> {
        let reading = |name| match name {
            "task-clock-ns" => Observed::Value(300.0 + switches),
            "context-switches" => Observed::Value(switches),
            _ => Observed::missing("not opened"),
        };
        names().map(|name| (name, reading(name))).collect()
    };
    let idle = typical(&[stretch(0.0), stretch(7.0), stretch(0.0), stretch(0.0)]);
    let of = |wanted| idle[names().position(|name| name == wanted).expect("a counter")];
    assert_eq!(
        (of("task-clock-ns"), of("context-switches"), of("cycles")),
        (300.0, 0.0, 0.0)
    );
}

#[test]
fn a_group_that_shared_the_pmu_is_scaled_up_and_one_that_never_ran_is_missing() {
    assert_eq!(scaled(1000, 80, 80), Some(1000.0));
    assert_eq!(scaled(1000, 80, 20), Some(4000.0));
    assert_eq!(share(80, 20), Some(0.25));
    assert_eq!((scaled(0, 80, 0), share(80, 0)), (None, None));
}

#[test]
fn what_starting_and_stopping_added_is_taken_off_for_every_stretch() {
    let mut set = CounterSet::open();
    set.clear();
    for _ in 0..2 {
        set.start();
        burn();
        set.stop();
    }
    let mut task_clock = |idle_ns: f64| {
        set.idle.fill(idle_ns);
        value(&set.per_operation(1), "task-clock-ns")
    };
    let (Observed::Value(all), Observed::Value(less)) = (task_clock(0.0), task_clock(500.0)) else {
        return;
    };
    assert_eq!(all - less, 1000.0);
    assert_eq!(task_clock(1e18), Observed::Value(0.0));
}

#[test]
fn nothing_done_is_missing_and_not_infinite() {
    let mut set = CounterSet::open();
    set.start();
    set.stop();
    for (name, reading) in set.per_operation(0) {
        assert!(
            name == RUNNING_SHARE || reading.reason().is_some(),
            "{name}"
        );
    }
}

#[test]
fn an_unknown_counter_is_refused_with_the_known_ones() {
    let error = open("flux").expect_err("refused");
    assert!(
        error.contains("'flux'") && error.contains("task-clock-ns"),
        "{error}"
    );
}
