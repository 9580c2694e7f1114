//! Latency distributions as HDR histograms that merge without loss.
//!
//! In JSON a distribution is its summary (for readers without an HDR decoder)
//! and the histogram itself in HDR's V2 encoding, base64. On reading, the
//! histogram is decoded and the summary is made anew from it.

mod steps;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Serializer as _, V2Serializer},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use self::steps::Steps;
use crate::schema::LatencySummary;

/// Longest latency a histogram can hold, nanoseconds (about 18 minutes).
pub const MAX_NS: u64 = 1 << 40;
/// Significant decimal digits kept.
pub const DIGITS: u8 = 3;
/// Longest encoded histogram that is read, bytes of base64.
const MAX_ENCODED: usize = 4 << 20;

/// A latency distribution, nanoseconds.
///
/// [`new`](Self::new) has room for all of it beforehand, for who records while something is
/// timed. What is read or [`default`](Self::default) takes memory for what it holds only: a
/// file has thousands of them.
#[derive(Clone, Debug)]
pub struct Latency(Kept);

#[derive(Clone, Debug)]
enum Kept {
    /// All steps, empty ones too: 256 KiB.
    Room(Histogram<u64>),
    Steps(Steps),
}

/// An empty histogram of the schema's bounds.
fn room() -> Histogram<u64> {
    // The bounds are constants that the constructor accepts.
    match Histogram::new_with_bounds(1, MAX_NS, DIGITS) {
        Ok(histogram) => histogram,
        Err(_) => unreachable!("constant histogram bounds"),
    }
}

impl Latency {
    /// An empty distribution. Recording into it does not allocate.
    pub fn new() -> Self {
        Self(Kept::Room(room()))
    }

    /// Records one latency; longer ones than [`MAX_NS`] count as that.
    pub fn record_ns(&mut self, ns: u64) {
        self.record_many_ns(ns, 1);
    }

    /// Records `count` latencies of `ns`.
    pub fn record_many_ns(&mut self, ns: u64, count: u64) {
        match &mut self.0 {
            Kept::Room(histogram) => histogram.saturating_record_n(ns.min(MAX_NS), count),
            Kept::Steps(steps) => steps.record(ns, count),
        }
    }

    /// Adds another distribution to this one, without loss.
    pub fn merge(&mut self, other: &Self) {
        if let (Kept::Room(sum), Kept::Room(more)) = (&mut self.0, &other.0)
            && sum.add(more).is_ok()
        {
            return;
        }
        match &mut self.0 {
            Kept::Steps(sum) => sum.merge(other.recorded()),
            // Counts of a file are as large as it likes: only steps add them up safely.
            Kept::Room(_) => {
                let mut sum = Steps::of(self.recorded());
                sum.merge(other.recorded());
                self.0 = Kept::Steps(sum);
            }
        }
    }

    /// Latencies recorded.
    pub fn count(&self) -> u64 {
        match &self.0 {
            Kept::Room(histogram) => histogram.len(),
            Kept::Steps(steps) => steps.count(),
        }
    }

    /// The latencies recorded, ascending, each with how often it was.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (histogram, steps) = match &self.0 {
            Kept::Room(histogram) => (Some(histogram), &[][..]),
            Kept::Steps(steps) => (None, steps.as_slice()),
        };
        let all = histogram.into_iter().flat_map(Histogram::iter_recorded);
        all.map(|step| (step.value_iterated_to(), step.count_at_value()))
            .chain(steps.iter().copied())
    }

    /// The value below which `quantile` (0 to 1) of the latencies lie.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        match &self.0 {
            Kept::Room(histogram) => histogram.value_at_quantile(quantile),
            Kept::Steps(steps) => steps.quantile_ns(quantile),
        }
    }

    /// Mean, nanoseconds; 0 when empty.
    pub fn mean_ns(&self) -> f64 {
        match &self.0 {
            Kept::Room(histogram) => histogram.mean(),
            Kept::Steps(steps) => steps.mean_ns(),
        }
    }

    /// Standard deviation, nanoseconds; 0 when empty.
    pub fn stdev_ns(&self) -> f64 {
        match &self.0 {
            Kept::Room(histogram) => histogram.stdev(),
            Kept::Steps(steps) => steps.stdev_ns(),
        }
    }

    /// The figures tables print.
    pub fn summary(&self) -> LatencySummary {
        LatencySummary {
            count: self.count(),
            mean_ns: self.mean_ns(),
            p50_ns: self.quantile_ns(0.5),
            p90_ns: self.quantile_ns(0.9),
            p99_ns: self.quantile_ns(0.99),
            p999_ns: self.quantile_ns(0.999),
            max_ns: match &self.0 {
                Kept::Room(histogram) => histogram.max(),
                Kept::Steps(steps) => steps.max_ns(),
            },
        }
    }

    /// In HDR's V2 encoding, base64.
    fn encoded(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        let mut filled;
        let histogram = match &self.0 {
            Kept::Room(histogram) => histogram,
            Kept::Steps(steps) => {
                filled = room();
                for (ns, count) in steps.as_slice() {
                    filled.saturating_record_n(*ns, *count);
                }
                &filled
            }
        };
        match V2Serializer::new().serialize(histogram, &mut bytes) {
            Ok(_) => Ok(STANDARD.encode(bytes)),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Kept::Steps(Steps::default()))
    }
}

impl PartialEq for Latency {
    fn eq(&self, other: &Self) -> bool {
        self.recorded().eq(other.recorded())
    }
}

/// A latency distribution.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Latency")]
struct Wire {
    /// The figures tables print, made from the histogram.
    summary: LatencySummary,
    /// The histogram, nanoseconds: HDR V2 encoding in base64.
    hdr_v2_base64: String,
}

impl JsonSchema for Latency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Wire::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Wire::json_schema(generator)
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire {
            summary: self.summary(),
            hdr_v2_base64: self.encoded().map_err(S::Error::custom)?,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        if wire.hdr_v2_base64.len() > MAX_ENCODED {
            return Err(D::Error::custom(
                "an encoded histogram is larger than 4 MiB",
            ));
        }
        let bytes = STANDARD
            .decode(&wire.hdr_v2_base64)
            .map_err(|_| D::Error::custom("hdr_v2_base64 is not base64"))?;
        let steps = Steps::decode(&bytes).ok_or_else(|| {
            D::Error::custom("hdr_v2_base64 is not an HDR V2 histogram of this schema's bounds")
        })?;
        let latency = Self(Kept::Steps(steps));
        if latency.count() != wire.summary.count {
            return Err(D::Error::custom(
                "the histogram contradicts its summary's count",
            ));
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests;
