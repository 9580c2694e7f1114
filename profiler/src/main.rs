//! rmapscope
fn main() {}
