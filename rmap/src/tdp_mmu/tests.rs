//! What verify finds in tables that are broken by hand.

use super::{
    table::{ROOT_HEIGHT, TdpTable},
    *,
};
use crate::{
    config::AccessedBits,
    spte::{Entry, EntryKind, Spte},
};

fn young(gfn: Gfn) -> Entry {
    Entry::new(SpteWord::young(gfn, Access::Read, AccessedBits::AD))
}

/// What verify says while `entry` is in the place that `find` finds in the root of an
/// MMU that maps the 1 GiB page 0.
fn found(entry: Entry, find: impl FnOnce(&TdpTable) -> &Spte) -> Result<(), Violation> {
    let mmu = TdpMmu::<AsKvm>::new(&MmuConfig::new(Gfn(0), 4, 1)).expect("valid");
    let page = Mapping::new(Gfn(0), Level::Size1G, 0);
    let fault = mmu.fault(&mut Vcpu::new(), page, Access::Read);
    assert!(fault.is_ok(), "{fault:?}");
    assert_eq!(mmu.verify(), Ok(()));
    let spte = find(mmu.tdp.root());
    let old = spte.swap_entry(entry);
    let found = mmu.verify();
    spte.swap_entry(old);
    assert_eq!(mmu.verify(), Ok(()));
    found
}

/// An empty entry of the root.
fn second(root: &TdpTable) -> &Spte {
    &root.sptes()[1]
}

/// The entry that maps the page.
fn leaf(root: &TdpTable) -> &Spte {
    let EntryKind::Table(below) = root.sptes()[0].load_entry().kind() else {
        panic!("the root leads nowhere");
    };
    // SAFETY: I-life: nobody else has the MMU, so what the tree leads to stays.
    let below: &TdpTable = unsafe { below.cast().as_ref() };
    &below.sptes()[0]
}

#[test]
fn i_frozen_verify_finds_an_entry_left_frozen() {
    let found = found(Entry::new(SpteWord::FROZEN), second);
    assert!(
        matches!(
            found,
            Err(Violation::FrozenLeft {
                height: ROOT_HEIGHT,
                ..
            })
        ),
        "{found:?}"
    );
}

#[test]
fn verify_finds_an_spte_where_only_tables_can_be() {
    let found = found(young(Gfn(0)), second);
    assert!(
        matches!(
            found,
            Err(Violation::BadEntry {
                height: ROOT_HEIGHT,
                ..
            })
        ),
        "{found:?}"
    );
}

#[test]
fn verify_finds_an_spte_that_maps_another_page() {
    let wrong = Mapping::new(Gfn(0), Level::Size1G, 0);
    assert_eq!(found(young(Gfn(5)), leaf), Err(Violation::WrongPage(wrong)));
}
