//! Latency distributions as HDR histograms that merge without loss.
//!
//! In JSON a distribution is its summary (for readers without an HDR decoder)
//! and the histogram itself in HDR's V2 encoding, base64. On reading, the
//! histogram is decoded and the summary is made anew from it.

use std::borrow::Cow;

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
/// Significant decimal digits of a histogram.
pub const DIGITS: u8 = 3;
/// Longest encoded histogram that is read, bytes.
const MAX_ENCODED: usize = 4 << 20;

/// A latency distribution, nanoseconds.
///
/// [`new`](Self::new) has room for all of it beforehand, for who records while something is
/// timed. What is read or [`default`](Self::default) stays in its encoding, which is as long
/// as what it holds, until something is added to it: a file has thousands of them, and the
/// room is 256 KiB.
#[derive(Clone, Debug)]
pub struct Latency(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Room(Histogram<u64>),
    /// HDR's V2 encoding, which has been decoded once; nothing where nothing was recorded.
    Encoded(Vec<u8>),
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
        self.room().saturating_record(ns.min(MAX_NS));
    }

    /// Records `count` latencies of `ns`.
    pub fn record_many_ns(&mut self, ns: u64, count: u64) {
        self.room().saturating_record_n(ns.min(MAX_NS), count);
    }

    /// Adds another distribution to this one, without loss.
    pub fn merge(&mut self, other: &Self) {
        // None has larger bounds than the schema's, which is all that add() can object to.
        if self.room().add(&*other.histogram()).is_err() {
            unreachable!("latency histograms share their bounds");
        }
    }

    /// Latencies recorded.
    pub fn count(&self) -> u64 {
        self.histogram().len()
    }

    /// The latencies recorded, ascending, each with how often it was.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let histogram = self.histogram();
        let steps = histogram.iter_recorded();
        let steps: Vec<_> = steps
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        steps.into_iter()
    }

    /// The value below which `quantile` (0 to 1) of the latencies lie.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.histogram().value_at_quantile(quantile)
    }

    /// Mean, nanoseconds; 0 when empty.
    pub fn mean_ns(&self) -> f64 {
        self.histogram().mean()
    }

    /// Standard deviation, nanoseconds; 0 when empty.
    pub fn stdev_ns(&self) -> f64 {
        self.histogram().stdev()
    }

    /// The figures tables print.
    pub fn summary(&self) -> LatencySummary {
        let histogram = self.histogram();
        LatencySummary {
            count: histogram.len(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }

    /// The histogram, decoded where it is encoded.
    fn histogram(&self) -> Cow<'_, Histogram<u64>> {
        match &self.0 {
            Kept::Room(histogram) => Cow::Borrowed(histogram),
            // It was decoded when it was read.
            Kept::Encoded(bytes) => Cow::Owned(decoded(bytes).unwrap_or_else(room)),
        }
    }

    /// The histogram, with room to record into.
    fn room(&mut self) -> &mut Histogram<u64> {
        if let Kept::Encoded(_) = self.0 {
            let mut histogram = room();
            if histogram.add(&*self.histogram()).is_err() {
                unreachable!("latency histograms share their bounds");
            }
            self.0 = Kept::Room(histogram);
        }
        match &mut self.0 {
            Kept::Room(histogram) => histogram,
            Kept::Encoded(_) => unreachable!("made room above"),
        }
    }

    /// In HDR's V2 encoding, base64.
    fn encoded(&self) -> Result<String, String> {
        let mut bytes = Vec::new();
        match V2Serializer::new().serialize(&self.histogram(), &mut bytes) {
            Ok(_) => Ok(STANDARD.encode(bytes)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Reads HDR's V2 encoding of a histogram of the schema's bounds.
///
/// The header is looked at first: it may promise gigabytes, and the compressed encoding,
/// which no version has written, may inflate to them. So is the length of each number: the
/// decoder does not expect those that take all 64 bits.
fn decoded(bytes: &[u8]) -> Option<Histogram<u64>> {
    /// How the encoding begins, uncompressed.
    const COOKIE: u32 = 0x1c84_9313;
    /// Bytes before the counts.
    const HEADER: usize = 40;
    let (header, counts) = bytes.split_at_checked(HEADER)?;
    let word = |at| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let long = |at| Some(u64::from_be_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let is_ours = word(0)? == COOKIE
        && word(4)? as usize == counts.len()
        && word(12)? == u32::from(DIGITS)
        && long(16)? == 1
        && long(24)? <= MAX_NS;
    let goes_on = |byte: &u8| byte & 0x80 != 0;
    let is_long = counts.windows(8).any(|bytes| bytes.iter().all(goes_on));
    if !is_ours || is_long {
        return None;
    }
    HdrDeserializer::new().deserialize(&mut &*bytes).ok()
}

impl Default for Latency {
    fn default() -> Self {
        Self(Kept::Encoded(Vec::new()))
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
        let histogram = decoded(&bytes).ok_or_else(|| {
            D::Error::custom("hdr_v2_base64 is not an HDR V2 histogram of this schema's bounds")
        })?;
        if histogram.len() != wire.summary.count {
            return Err(D::Error::custom(
                "the histogram contradicts its summary's count",
            ));
        }
        Ok(Self(Kept::Encoded(bytes)))
    }
}

#[cfg(test)]
mod tests;
