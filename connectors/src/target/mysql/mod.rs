//! MariaDB and MySQL as a target: rows, the applied position and our mark in one transaction.

mod batch;
pub(crate) mod catalogue;
pub(crate) mod literal;
mod load;
mod position;
pub(crate) mod table;
mod writer;

pub(crate) use writer::Writer;
