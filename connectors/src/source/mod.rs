//! Where changes come from.

pub(crate) mod postgres;
