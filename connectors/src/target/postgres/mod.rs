//! PostgreSQL as a target: rows, the applied position and our mark in one transaction.

pub(crate) mod apply;
pub(crate) mod fold;
pub(crate) mod load;
pub(crate) mod pipe;
pub(crate) mod position;
pub(crate) mod table;
pub(crate) mod text_array;
