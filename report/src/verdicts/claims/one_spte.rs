//! How long the chains of a real VM are.

use crate::{
    Observed,
    proportion::Counts,
    schema::{Verdict, VerdictNumber},
    verdicts::{Claim, Evidence, Judged, THREAD, evidence::Guests},
};

/// A "vast majority".
const MOST: f64 = 0.9;

pub(crate) static CLAIM: Claim = Claim {
    id: "one-spte",
    claim: "Under nested TDP nearly every rmap that is not empty has exactly one SPTE.",
    claimed_in: THREAD,
    tested_by: "the census of a recorded profile, 4 KiB rmaps that are not empty: of a host, or of \
                a nested test guest whose L1 maps each page once",
    judge,
};

/// A host's own VMs decide the claim alone. A test guest whose L2 uses pages that its L1 has
/// mapped once each shows that KVM adds no SPTE of its own, and can refute the claim; how
/// many mappings a host's L1s have, it cannot show. Any other profile decides nothing.
fn judge(evidence: &Evidence<'_>) -> Judged {
    let of = |guests| one_spte(evidence, guests);
    let own = of(Guests::Own);
    if let Some(low_high) = own.share_ci95() {
        let confirmed = "at least nine tenths of the rmaps have one SPTE";
        let numbers = numbers(&[(own, "")]);
        return by_share(low_high, (Verdict::Confirmed, confirmed), numbers);
    }
    let once = of(Guests::Nested { once: true });
    let several = of(Guests::Nested { once: false });
    let nested = [
        (once, ", L1 maps each page once"),
        (several, ", L1 maps each page several times"),
    ];
    if let Some(low_high) = once.share_ci95() {
        let qualified = "it holds as far as L1 maps each page once, as in the nested test guest \
                         recorded: KVM adds no second SPTE of its own. How L1s really map takes \
                         a profile of a host that runs nested guests";
        return by_share(low_high, (Verdict::Qualified, qualified), numbers(&nested));
    }
    let [without, chosen] = [Guests::OwnWithoutTdpMmu, Guests::Chosen].map(of);
    let because = if without.trials > 0 {
        "the host's KVM runs without the TDP MMU (shadow paging, or tdp_mmu=N), so its rmaps are \
         not those of nested TDP; record a host that runs nested guests on it"
    } else if chosen.trials > 0 || several.trials > 0 {
        "the profile is of test guests whose aliases were chosen; record a host that runs nested \
         guests"
    } else {
        "no profile with a census of rmaps that hold SPTEs"
    };
    let others = [(without, ", no TDP MMU"), (chosen, ", chosen aliases")];
    Judged::open(because, numbers(&[nested, others].concat()))
}

/// Refuted, open, or what holds if nine tenths have one SPTE, by where the share's 95 %
/// interval lies.
fn by_share(
    (low, high): (f64, f64),
    holds: (Verdict, &'static str),
    numbers: Vec<VerdictNumber>,
) -> Judged {
    let (verdict, because) = if high < MOST {
        let refuted = "more than a tenth of the rmaps have several SPTEs";
        (Verdict::Refuted, refuted)
    } else if low < MOST {
        let open = "whether nine tenths have one SPTE cannot be told from so few rmaps";
        (Verdict::Open, open)
    } else {
        holds
    };
    Judged::new(verdict, because, numbers)
}

/// Rmaps with one SPTE, of those that are not empty, in the runs of such guests.
fn one_spte(evidence: &Evidence<'_>, guests: Guests) -> Counts {
    let mut counts = Counts::default();
    for (_, census) in evidence.censuses().filter(|(whose, _)| *whose == guests) {
        for (&length, &heads) in census.lengths.iter().filter(|(length, _)| **length > 0) {
            counts.add(Counts {
                hits: if length == 1 { heads } else { 0 },
                trials: heads,
            });
        }
        counts.add(Counts {
            hits: 0,
            trials: census.longer,
        });
    }
    counts
}

/// The shares of those that have any rmaps.
fn numbers(shares: &[(Counts, &str)]) -> Vec<VerdictNumber> {
    let number = |(counts, whose): &(Counts, &str)| {
        Some(VerdictNumber {
            name: format!(
                "rmaps with one SPTE ({} of {} not empty{whose})",
                counts.hits, counts.trials
            ),
            unit: String::new(),
            value: Observed::Value(counts.share()?),
            ci95: counts.share_ci95(),
        })
    };
    shares.iter().filter_map(number).collect()
}
