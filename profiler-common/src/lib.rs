//! types
#![no_std]
