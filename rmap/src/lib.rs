//! rmap
