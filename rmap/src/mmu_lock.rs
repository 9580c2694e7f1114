//! mmu_lock: the one reader-writer lock of a VM.
//!
//! Faults, zaps and unmaps hold it for write, as KVM's shadow MMU does. It guards
//! no data that Rust could see: what it excludes is written down with each scheme.
//! Which lock it is can be chosen per VM; a new one is a variant here. Under
//! the model checkers there is only the checker's own.

mod held;
pub mod queued;

use std::sync::PoisonError;

use crate::config::LockKind;
use held::Held;
#[cfg(all(debug_assertions, not(any(loom, shuttle))))]
pub use held::is_held_here;

/// One VM's mmu_lock.
#[derive(Debug)]
pub struct MmuLock(Lock);

#[cfg(not(any(loom, shuttle)))]
#[derive(Debug)]
enum Lock {
    Queued(queued::QueuedRwLock),
    ParkingLot(parking_lot::RwLock<()>),
    Std(std::sync::RwLock<()>),
}

#[cfg(any(loom, shuttle))]
#[derive(Debug)]
struct Lock(crate::sync::RwLock<()>);

/// mmu_lock held for read; released on drop.
#[must_use]
#[expect(dead_code, reason = "the guards are held, never read")]
pub struct ReadGuard<'a>(Read<'a>, Held);

/// mmu_lock held for write; released on drop.
#[must_use]
#[expect(dead_code, reason = "the guards are held, never read")]
pub struct WriteGuard<'a>(Write<'a>, Held);

#[cfg(not(any(loom, shuttle)))]
#[expect(dead_code, reason = "the guards are held, never read")]
enum Read<'a> {
    Queued(queued::ReadGuard<'a>),
    ParkingLot(parking_lot::RwLockReadGuard<'a, ()>),
    Std(std::sync::RwLockReadGuard<'a, ()>),
}

#[cfg(not(any(loom, shuttle)))]
#[expect(dead_code, reason = "the guards are held, never read")]
enum Write<'a> {
    Queued(queued::WriteGuard<'a>),
    ParkingLot(parking_lot::RwLockWriteGuard<'a, ()>),
    Std(std::sync::RwLockWriteGuard<'a, ()>),
}

#[cfg(any(loom, shuttle))]
type Read<'a> = crate::sync::RwLockReadGuard<'a, ()>;
#[cfg(any(loom, shuttle))]
type Write<'a> = crate::sync::RwLockWriteGuard<'a, ()>;

#[cfg(not(any(loom, shuttle)))]
impl MmuLock {
    /// A lock of the kind asked for, held by nobody.
    #[must_use]
    pub fn new(kind: LockKind) -> Self {
        Self(match kind {
            LockKind::Queued => Lock::Queued(queued::QueuedRwLock::new()),
            LockKind::ParkingLot => Lock::ParkingLot(parking_lot::RwLock::new(())),
            LockKind::Std => Lock::Std(std::sync::RwLock::new(())),
        })
    }

    /// Takes the lock for read.
    pub fn read(&self) -> ReadGuard<'_> {
        let guard = match &self.0 {
            Lock::Queued(lock) => Read::Queued(lock.read()),
            Lock::ParkingLot(lock) => Read::ParkingLot(lock.read()),
            Lock::Std(lock) => Read::Std(lock.read().unwrap_or_else(PoisonError::into_inner)),
        };
        ReadGuard(guard, Held::new())
    }

    /// Takes the lock for write.
    pub fn write(&self) -> WriteGuard<'_> {
        let guard = match &self.0 {
            Lock::Queued(lock) => Write::Queued(lock.write()),
            Lock::ParkingLot(lock) => Write::ParkingLot(lock.write()),
            Lock::Std(lock) => Write::Std(lock.write().unwrap_or_else(PoisonError::into_inner)),
        };
        WriteGuard(guard, Held::new())
    }
}

#[cfg(any(loom, shuttle))]
impl MmuLock {
    /// The model's lock, whatever kind is asked for.
    #[must_use]
    pub fn new(_kind: LockKind) -> Self {
        Self(Lock(crate::sync::RwLock::new(())))
    }

    /// Takes the lock for read.
    pub fn read(&self) -> ReadGuard<'_> {
        let guard = self.0.0.read().unwrap_or_else(PoisonError::into_inner);
        ReadGuard(guard, Held::new())
    }

    /// Takes the lock for write.
    pub fn write(&self) -> WriteGuard<'_> {
        let guard = self.0.0.write().unwrap_or_else(PoisonError::into_inner);
        WriteGuard(guard, Held::new())
    }
}
