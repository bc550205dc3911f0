//! PostgreSQL as a target: rows, the applied position and our mark in one transaction.

pub(crate) mod catalogue;
pub(crate) mod fold;
pub(crate) mod function;
pub(crate) mod load;
mod origin;
pub(crate) mod parking;
pub(crate) mod pipe;
pub(crate) mod position;
pub(crate) mod table;
pub(crate) mod text_array;
mod writer;

pub(crate) use writer::Writer;
