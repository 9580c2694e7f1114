//! KVM's binary statistics by name.
//!
//! The file describes itself: a header, descriptors, values. Nothing in it is trusted: every
//! offset and count is checked before it is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// No statistics file comes near this size, in bytes.
const MAX_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 24;
/// Bytes of a descriptor before its name.
const DESCRIPTOR_BYTES: usize = 16;

/// Why KVM's statistics could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// Reading failed.
    #[error("could not read KVM's statistics file: {0}")]
    Read(io::Error),
    /// The contents contradict themselves.
    #[error("KVM's statistics file is malformed: {0}")]
    Malformed(&'static str),
}

/// A snapshot of one VM's statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KvmStats {
    values: BTreeMap<String, Vec<u64>>,
}

impl KvmStats {
    /// The value called `name`; `None` if this kernel has none, or if it is a histogram.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        match self.values.get(name)?.as_slice() {
            [value] => Some(*value),
            _ => None,
        }
    }

    /// All values of `name`: one, or the buckets of a histogram.
    #[must_use]
    pub fn buckets(&self, name: &str) -> Option<&[u64]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// The 4 KiB SPTEs that are mapped now (`pages_4k`), those of the guest's own tables, code
    /// and control page included.
    #[must_use]
    pub fn sptes_4k(&self) -> Option<u64> {
        self.get("pages_4k")
    }

    /// Names and values, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.values
            .iter()
            .map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// Reads a statistics file descriptor of KVM.
    ///
    /// # Errors
    /// If it cannot be read or contradicts itself.
    pub(crate) fn read(file: &File) -> Result<Self, StatsError> {
        let mut bytes = vec![0; MAX_BYTES];
        let mut filled = 0;
        while filled < MAX_BYTES {
            let read = file.read_at(&mut bytes[filled..], filled as u64);
            match read.map_err(StatsError::Read)? {
                0 => break,
                count => filled += count,
            }
        }
        Self::parse(&bytes[..filled])
    }

    /// Takes a statistics file apart.
    ///
    /// # Errors
    /// [`StatsError::Malformed`] with the rule that is broken.
    pub fn parse(bytes: &[u8]) -> Result<Self, StatsError> {
        let header = Header::parse(bytes).ok_or(StatsError::Malformed("the header is cut off"))?;
        if header.name_bytes == 0 {
            return Err(StatsError::Malformed("names have no room"));
        }
        let mut values = BTreeMap::new();
        for index in 0..header.count {
            let (name, value) = header.descriptor(bytes, index)?;
            if values.insert(name, value).is_some() {
                return Err(StatsError::Malformed("a name appears twice"));
            }
        }
        Ok(Self { values })
    }
}

struct Header {
    name_bytes: usize,
    count: usize,
    descriptors: usize,
    data: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        let field = |index: usize| u32_at(bytes, index * 4).map(|value| value as usize);
        Some(Self {
            name_bytes: field(1)?,
            count: field(2)?,
            descriptors: field(4)?,
            data: field(5)?,
        })
    }

    fn descriptor(&self, bytes: &[u8], index: usize) -> Result<(String, Vec<u64>), StatsError> {
        let descriptor = self
            .descriptor_bytes(bytes, index)
            .ok_or(StatsError::Malformed("a descriptor lies outside the file"))?;
        let (fixed, name) = descriptor.split_at(DESCRIPTOR_BYTES);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty())
            .ok_or(StatsError::Malformed("a name is empty or not text"))?;
        let values = self
            .values(bytes, fixed)
            .ok_or(StatsError::Malformed("a value lies outside the file"))?;
        Ok((name.to_owned(), values))
    }

    fn descriptor_bytes<'a>(&self, bytes: &'a [u8], index: usize) -> Option<&'a [u8]> {
        let size = DESCRIPTOR_BYTES.checked_add(self.name_bytes)?;
        let start = self.descriptors.checked_add(index.checked_mul(size)?)?;
        bytes.get(start..start.checked_add(size)?)
    }

    fn values(&self, bytes: &[u8], fixed: &[u8]) -> Option<Vec<u64>> {
        let count = u16::from_le_bytes(fixed.get(6..8)?.try_into().ok()?);
        let offset = u32_at(fixed, 8)? as usize;
        let start = self.data.checked_add(offset)?;
        let data = bytes.get(start..start.checked_add(usize::from(count) * 8)?)?;
        let words = data.chunks_exact(8).map(|chunk| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Some(words.collect())
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME_BYTES: usize = 48;

    /// A file as KVM writes it.
    fn file(stats: &[(&str, &[u64])]) -> Vec<u8> {
        let descriptors = HEADER_BYTES + 8;
        let data = descriptors + stats.len() * (DESCRIPTOR_BYTES + NAME_BYTES);
        let mut bytes = Vec::new();
        for field in [0, NAME_BYTES, stats.len(), HEADER_BYTES, descriptors, data] {
            bytes.extend((field as u32).to_le_bytes());
        }
        bytes.extend(*b"kvm-1234");
        let mut offset = 0;
        for (name, values) in stats {
            bytes.extend([0; 6]);
            bytes.extend((values.len() as u16).to_le_bytes());
            bytes.extend((offset as u32).to_le_bytes());
            bytes.extend([0; 4]);
            let mut field = [0; NAME_BYTES];
            field[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(field);
            offset += values.len() * 8;
        }
        for (_, values) in stats {
            values
                .iter()
                .for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn scalars_and_histograms_are_told_apart() {
        let bytes = file(&[("pages_4k", &[514]), ("hist", &[1, 2, 3]), ("none", &[])]);
        let stats = KvmStats::parse(&bytes).expect("well-formed");
        assert_eq!(stats.sptes_4k(), Some(514));
        assert_eq!(stats.get("hist"), None);
        assert_eq!(stats.buckets("hist"), Some(&[1, 2, 3][..]));
        assert_eq!(stats.buckets("none"), Some(&[][..]));
        assert_eq!(stats.get("absent"), None);
        assert_eq!(stats.iter().count(), 3);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = file(&[("pages_4k", &[514]), ("hist", &[1, 2, 3])]);
        for len in 0..bytes.len() {
            assert!(KvmStats::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn hostile_headers_and_descriptors_are_errors() {
        let good = file(&[("pages_4k", &[514])]);
        let descriptor = HEADER_BYTES + 8;
        for field in [4, 8, 16, 20, descriptor + 8] {
            let mut bytes = good.clone();
            bytes[field..field + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(KvmStats::parse(&bytes).is_err(), "field at {field}");
        }
        let mut bytes = good.clone();
        bytes[descriptor + 6..descriptor + 8].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(KvmStats::parse(&bytes).is_err(), "value count");
        let mut bytes = good.clone();
        bytes[descriptor + DESCRIPTOR_BYTES] = 0xff;
        assert!(KvmStats::parse(&bytes).is_err(), "name not text");
        let mut bytes = good.clone();
        bytes[descriptor + DESCRIPTOR_BYTES] = 0;
        assert!(KvmStats::parse(&bytes).is_err(), "empty name");
        let mut bytes = good;
        bytes[4..8].copy_from_slice(&0u32.to_le_bytes());
        assert!(KvmStats::parse(&bytes).is_err(), "no room for names");
        assert!(KvmStats::parse(&file(&[("a", &[1]), ("a", &[2])])).is_err());
    }
}
