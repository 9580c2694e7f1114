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
    assert!(serde_json::from_str::<Latency>(&json.replace("\"count\":1", "\"count\":2")).is_err());
    assert!(serde_json::from_str::<Latency>(&json.replace("HI", "??")).is_err());
}

#[test]
fn a_quantile_is_no_maximum() {
    let mut latency = Latency::new();
    (1..=1000).for_each(|ns| latency.record_ns(ns));
    let s = latency.summary();
    let told = [s.p50_ns, s.p90_ns, s.p99_ns, s.p999_ns, s.max_ns];
    assert_eq!(told, [500, 900, 990, 999, 1000]);
}

/// Latencies over the whole range, few and many.
fn scattered() -> [Latency; 2] {
    let mut both = [Latency::new(), Latency::default()];
    let mut ns = 1_u64;
    for turn in 0..3000 {
        ns = ns.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let shown = ns >> (20 + turn % 44);
        for latency in &mut both {
            latency.record_many_ns(shown, turn % 7);
        }
    }
    both
}

#[test]
fn whether_there_was_room_beforehand_makes_no_difference() {
    let [room, encoded] = scattered();
    assert_eq!(room, encoded);
    assert_eq!(room.summary(), encoded.summary());
    assert_eq!(room.stdev_ns(), encoded.stdev_ns());
    for permille in 0..=1001 {
        let quantile = f64::from(permille) / 1000.0;
        assert_eq!(room.quantile_ns(quantile), encoded.quantile_ns(quantile));
    }
    let [room, encoded] = [room, encoded].map(|l| serde_json::to_string(&l).unwrap());
    assert_eq!(room, encoded);
    let [room, encoded] = [Latency::new(), Latency::default()];
    assert_eq!(room.summary(), encoded.summary());
    assert_eq!(room.stdev_ns(), encoded.stdev_ns());
    let [room, encoded] = [room, encoded].map(|l| serde_json::to_string(&l).unwrap());
    assert_eq!(room, encoded);
}

#[test]
fn merging_is_the_same_whether_there_was_room_beforehand() {
    let other = || {
        let mut other = [Latency::new(), Latency::default()];
        for ns in 0..500 {
            other.iter_mut().for_each(|l| l.record_ns(ns * ns));
        }
        other
    };
    let mut sums = Vec::new();
    for more in other() {
        for mut sum in scattered() {
            sum.merge(&more);
            sums.push(sum);
        }
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]));
    assert_eq!(sums[0].count(), scattered()[0].count() + 500);
}

#[test]
fn what_is_written_is_what_hdr_histograms_read() {
    let [_, latency] = scattered();
    let bytes = STANDARD.decode(latency.encoded().unwrap()).unwrap();
    let read: Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .unwrap();
    assert_eq!((read.high(), read.sigfig()), (MAX_NS, DIGITS));
    assert_eq!(Latency(Kept::Room(read)), latency);
    assert_eq!(Latency(Kept::Encoded(bytes)), latency);
}

#[test]
fn what_was_read_takes_memory_for_what_it_holds() {
    let mut latency = Latency::new();
    latency.record_ns(10_000_000);
    let json = serde_json::to_string(&latency).unwrap();
    let Latency(Kept::Encoded(bytes)) = serde_json::from_str(&json).unwrap() else {
        panic!("as much as a histogram of the whole range");
    };
    assert!(bytes.len() < 64, "{}", bytes.len());
}

#[test]
fn a_header_that_promises_what_does_not_follow_is_refused() {
    let mut latency = Latency::new();
    latency.record_ns(10);
    let good = STANDARD.decode(latency.encoded().unwrap()).unwrap();
    assert!(decoded(&good).is_some());
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let longest = with(4, &u32::MAX.to_be_bytes());
    let digits = with(12, &5_u32.to_be_bytes());
    let lowest = with(16, &2_u64.to_be_bytes());
    let highest = with(24, &u64::MAX.to_be_bytes());
    let cut = good[..good.len() - 1].to_vec();
    for bad in [longest, digits, lowest, highest, cut, good[..39].to_vec()] {
        assert!(decoded(&bad).is_none(), "{bad:?}");
    }
}

#[test]
fn a_compressed_histogram_is_refused_uninflated() {
    let mut bytes = Vec::new();
    hdrhistogram::serialization::V2DeflateSerializer::new()
        .serialize(&room(), &mut bytes)
        .unwrap();
    assert!(decoded(&bytes).is_none());
}

#[test]
fn numbers_beyond_the_range_are_refused() {
    let good = STANDARD.decode(Latency::new().encoded().unwrap()).unwrap();
    let with = |payload: &[u8]| {
        let mut bytes = good[..40].to_vec();
        bytes[4..8].copy_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        decoded(&bytes)
    };
    assert!(with(&[2; 32 * 1024]).is_some());
    assert!(with(&[2; 32 * 1024 + 1]).is_none());
    // The most negative number, and one that does not end.
    assert!(with(&[0xff; 9]).is_none());
    assert!(with(&[0x80]).is_none());
}

#[test]
fn sums_of_the_largest_counts_do_not_overflow() {
    // No count of a file is larger.
    const MOST: u64 = 1 << 53;
    let mut sum = Latency::default();
    for ns in [5, 5, 6, 700] {
        let mut more = Latency::default();
        more.record_many_ns(ns, MOST);
        sum.merge(&more);
    }
    assert_eq!(sum.count(), 4 * MOST);
    assert_eq!(sum.quantile_ns(0.5), 5);
    assert!(sum.mean_ns().is_finite() && sum.stdev_ns().is_finite());
}
