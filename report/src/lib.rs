//! rmapscope's results: what they look like, how they are kept, what may be
//! said about them.
//!
//! Every other crate hands its measurements to this one and asks it for
//! tables. It never learns where a number comes from: a synthetic cost and a
//! real one are both records, and the comparison only sees records.
//!
//! | module | what is in it |
//! |---|---|
//! | [`schema`] | the record types of a result file |
//! | [`observed`] | a value, or the reason why there is none |
//! | [`latency`] | latency distributions as mergeable histograms |
//! | [`file`](mod@file) | reading and writing result files |
//! | [`merge`] | several files made into one |
//! | [`host`] | what is known about this host, for the context record |
//! | [`proportion`] | shares of events, with intervals for rare ones |
//! | [`stats`] | medians, intervals, interpolation |
//! | [`table`] | one table model, several renderers |
//! | [`summary`] | the tables of one result file |
//! | [`compare`] | synthetic beside real |
//! | `page` | figures and tables on one HTML page |
//! | [`terminal`] | printing, and names that come from elsewhere |
//! | [`usl`] | scaling curves |
//! | [`letter`] | tables as cover letters print them |
//! | [`benchstat`] | lines for benchstat |
//! | [`replay`] | a recording as a workload, and the model that predicts it |
//! | [`verdicts`] | claims about aging, and what became of each |
//! | [`embed`] | tables kept up to date inside markdown files |

#![forbid(unsafe_code)]

pub mod benchstat;
pub mod compare;
pub mod embed;
pub mod file;
pub mod host;
pub mod latency;
pub mod letter;
pub mod merge;
pub mod observed;
#[cfg(feature = "page")]
pub mod page;
pub mod proportion;
pub mod replay;
pub mod schema;
pub mod stats;
pub mod summary;
pub mod table;
pub mod terminal;
pub mod usl;
pub mod verdicts;

pub use file::{ReadError, ResultFile, ResultWriter, WriteError};
pub use observed::Observed;
