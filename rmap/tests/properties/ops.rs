//! Random operations: every call of the trait, at every level.

use proptest::prelude::*;
use rmap::{Gfn, GfnRange, Level, Mapping};

use crate::pair::{ALIASES, HUGE};

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Fault(Mapping, bool),
    /// Faults in many aliases of one page, so that chains get long.
    FaultMany(Mapping, u32),
    Zap(Mapping),
    Unmap(GfnRange),
    Age(GfnRange),
    AgeFastOnly(GfnRange),
    AgeBeforeEviction(GfnRange),
    TestAge(GfnRange),
    Touch(Mapping),
    WriteProtect(GfnRange),
    ZapCollapsible(GfnRange),
    /// Makes a share of the range young, in permille, and the rest old.
    SetYoungShare(GfnRange, u16, u64),
    ChainLen(Mapping),
    /// Gives a shadow page away, works on it in vain, and takes it back.
    ReusePage(Mapping),
}

/// Mostly gfns in the slots, sometimes beside them.
fn gfn() -> impl Strategy<Value = Gfn> {
    prop_oneof![
        8 => 510..514_u64,
        4 => 1023..1025_u64,
        4 => HUGE..HUGE + 3,
        2 => HUGE + 511..HUGE + 513,
        1 => prop_oneof![Just(0), Just(509), Just(514), Just(1025), Just(HUGE + 513), Just(u64::MAX)],
    ]
    .prop_map(Gfn)
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let level = prop::sample::select(Level::ALL.to_vec());
    let alias = prop_oneof![20 => 0..ALIASES, 1 => Just(ALIASES), 1 => Just(u32::MAX)];
    (gfn(), level, alias).prop_map(|(gfn, level, alias)| Mapping::new(gfn, level, alias))
}

/// Ranges that hold the one whole 2 MiB page of the slots, or just miss it.
fn collapsible() -> impl Strategy<Value = GfnRange> {
    let start = prop_oneof![2 => Just(HUGE), 1 => Just(0), 1 => Just(HUGE + 1)];
    let npages = prop_oneof![2 => 511..514_u64, 2 => Just(u64::MAX), 1 => Just(0)];
    (start, npages).prop_map(|(start, npages)| GfnRange::pages(Gfn(start), npages))
}

fn range() -> impl Strategy<Value = GfnRange> {
    let npages = prop_oneof![6 => 1..4_u64, 1 => 4..2000_u64, 1 => Just(0), 1 => Just(u64::MAX)];
    (gfn(), npages).prop_map(|(start, npages)| GfnRange::pages(start, npages))
}

/// All, none, and what is between.
fn share() -> impl Strategy<Value = u16> {
    prop_oneof![1 => Just(0), 1 => Just(1000), 4 => 1..1000_u16]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (mapping(), any::<bool>()).prop_map(|(mapping, write)| Op::Fault(mapping, write)),
        4 => (mapping(), 1..ALIASES).prop_map(|(mapping, n)| Op::FaultMany(mapping, n)),
        6 => mapping().prop_map(Op::Zap),
        2 => range().prop_map(Op::Unmap),
        4 => range().prop_map(Op::Age),
        4 => range().prop_map(Op::AgeFastOnly),
        2 => range().prop_map(Op::AgeBeforeEviction),
        4 => range().prop_map(Op::TestAge),
        4 => mapping().prop_map(Op::Touch),
        2 => range().prop_map(Op::WriteProtect),
        4 => collapsible().prop_map(Op::ZapCollapsible),
        2 => (range(), share(), any::<u64>())
            .prop_map(|(range, share, seed)| Op::SetYoungShare(range, share, seed)),
        2 => mapping().prop_map(Op::ChainLen),
        1 => mapping().prop_map(Op::ReusePage),
    ]
}
