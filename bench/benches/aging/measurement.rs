//! Perf events as a criterion measurement.

use std::cell::RefCell;

use bench::counters;
use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};
use perf_event::Counter;

/// Environment variable that names the counter.
pub(crate) const VARIABLE: &str = "RMAPSCOPE_MEASURE";

/// Counts one perf event of this thread.
pub(crate) struct CounterMeasurement {
    counter: RefCell<Counter>,
    formatter: Plain,
}

impl CounterMeasurement {
    /// Opens the counter and lets it run.
    pub(crate) fn open(name: &str) -> Result<Self, String> {
        let mut counter = counters::open(name)?;
        counter
            .enable()
            .map_err(|e| format!("counter {name} cannot be started: {e}"))?;
        // Criterion asks for a `'static` unit; one name per process is kept.
        let unit = Box::leak(name.to_owned().into_boxed_str());
        Ok(Self {
            counter: RefCell::new(counter),
            formatter: Plain { unit },
        })
    }

    fn read(&self) -> u64 {
        self.counter.borrow_mut().read().unwrap_or_else(|error| {
            eprintln!(
                "error: counter {} cannot be read: {error}",
                self.formatter.unit
            );
            std::process::exit(1);
        })
    }
}

impl Measurement for CounterMeasurement {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        self.read()
    }

    fn end(&self, start: u64) -> u64 {
        self.read().saturating_sub(start)
    }

    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &self.formatter
    }
}

/// Prints counts as they are, per iteration or per callback.
struct Plain {
    unit: &'static str,
}

impl ValueFormatter for Plain {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        self.unit
    }

    fn scale_throughputs(
        &self,
        _: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        if let Throughput::Elements(elements) = throughput {
            for value in values {
                *value /= *elements as f64;
            }
        }
        "per callback"
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        self.unit
    }
}
