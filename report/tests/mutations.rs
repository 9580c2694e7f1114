//! A short, repeatable run of what the fuzzer does at length.

#[path = "../fuzz/target.rs"]
mod target;

use std::path::Path;

/// Mutations of each seed.
const TURNS: u32 = 400;

/// xorshift64*: enough to scatter mutations, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let scattered = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        usize::try_from(scattered >> 33).unwrap_or(0) % limit.max(1)
    }
}

/// One line of every kind of record in the committed results.
fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/reference");
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let mut kinds: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let kind = line.split(',').next().unwrap_or_default().to_owned();
            if !kinds.contains(&kind) && line.len() < 20_000 {
                kinds.push(kind);
                seeds.push([b"\x01", line.as_bytes()].concat());
            }
        }
    }
    assert!(seeds.len() > 8, "{kinds:?}");
    seeds
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const TOKENS: [&str; 12] = [
        "-",
        "1e999",
        "null",
        "18446744073709551615",
        "\"",
        "{",
        "]",
        "\\u0000",
        "NaN",
        "0.5",
        "\n",
        "\u{202e}",
    ];
    let at = random.below(bytes.len() + 1);
    match random.below(4) {
        0 if at < bytes.len() => bytes[at] = random.below(256) as u8,
        1 => bytes.truncate(at),
        2 => {
            let end = (at + random.below(24)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let token = TOKENS[random.below(TOKENS.len())];
            bytes.splice(at..at, token.bytes());
        }
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in seeds() {
        target::feed(&seed);
        for _ in 0..TURNS {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(4) {
                mutate(&mut bytes, &mut random);
            }
            target::feed(&bytes);
        }
    }
}
