//! Latency distributions as HDR histograms that merge without loss.
//!
//! In JSON a distribution is its summary (for readers without an HDR decoder)
//! and the histogram itself in HDR's V2 encoding, base64. On reading, the
//! histogram is decoded and the summary is made anew from it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer as HdrDeserializer, Serializer as _, V2Serializer},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use crate::schema::LatencySummary;

/// Longest latency a histogram can hold, nanoseconds (about 18 minutes).
pub const MAX_NS: u64 = 1 << 40;
/// Significant decimal digits kept.
pub const DIGITS: u8 = 3;
/// Longest encoded histogram that is read, bytes of base64.
const MAX_ENCODED: usize = 4 << 20;

/// A latency distribution, nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// An empty distribution. Recording into it does not allocate.
    pub fn new() -> Self {
        // The bounds are constants that the constructor accepts.
        match Histogram::new_with_bounds(1, MAX_NS, DIGITS) {
            Ok(histogram) => Self(histogram),
            Err(_) => unreachable!("constant histogram bounds"),
        }
    }

    /// Records one latency; longer ones than [`MAX_NS`] count as that.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Records `count` latencies of `ns`.
    pub fn record_many_ns(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns, count);
    }

    /// Adds another distribution to this one, without loss.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same constant bounds, which is all that add() can
        // object to.
        if self.0.add(&other.0).is_err() {
            unreachable!("latency histograms share their bounds");
        }
    }

    /// Latencies recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latencies recorded, ascending, each with how often it was.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
    }

    /// The value below which `quantile` (0 to 1) of the latencies lie.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// Mean, nanoseconds; 0 when empty.
    pub fn mean_ns(&self) -> f64 {
        self.0.mean()
    }

    /// Standard deviation, nanoseconds; 0 when empty.
    pub fn stdev_ns(&self) -> f64 {
        self.0.stdev()
    }

    /// The figures tables print.
    pub fn summary(&self) -> LatencySummary {
        LatencySummary {
            count: self.0.len(),
            mean_ns: self.0.mean(),
            p50_ns: self.0.value_at_quantile(0.5),
            p90_ns: self.0.value_at_quantile(0.9),
            p99_ns: self.0.value_at_quantile(0.99),
            p999_ns: self.0.value_at_quantile(0.999),
            max_ns: self.0.max(),
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
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
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(S::Error::custom)?;
        Wire {
            summary: self.summary(),
            hdr_v2_base64: STANDARD.encode(bytes),
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
        let read: Histogram<u64> = HdrDeserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|_| D::Error::custom("hdr_v2_base64 is not an HDR V2 histogram"))?;
        if read.high() > MAX_NS || read.sigfig() != DIGITS {
            return Err(D::Error::custom(
                "the histogram has other bounds than this schema's",
            ));
        }
        let mut latency = Self::new();
        latency
            .0
            .add(&read)
            .map_err(|_| D::Error::custom("the histogram does not fit"))?;
        if latency.count() != wire.summary.count {
            return Err(D::Error::custom(
                "the histogram contradicts its summary's count",
            ));
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_file_and_merges_without_loss() {
        let (mut a, mut b) = (Latency::new(), Latency::new());
        for ns in 1..2000 {
            a.record_ns(ns);
            b.record_ns(ns * 1000);
        }
        let json = serde_json::to_string(&a).unwrap();
        let mut back: Latency = serde_json::from_str(&json).unwrap();
        assert_eq!(back, a);
        back.merge(&b);
        assert_eq!(back.count(), a.count() + b.count());
        assert_eq!(back.summary().max_ns, b.summary().max_ns);
    }

    #[test]
    fn an_encoding_that_contradicts_its_summary_is_refused() {
        let mut latency = Latency::new();
        latency.record_ns(10);
        let json = serde_json::to_string(&latency).unwrap();
        assert!(
            serde_json::from_str::<Latency>(&json.replace("\"count\":1", "\"count\":2")).is_err()
        );
        assert!(serde_json::from_str::<Latency>(&json.replace("HI", "??")).is_err());
    }
}
