//! Where changes go.

pub(crate) mod postgres;
