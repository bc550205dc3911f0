//! The stations of a request, one file each; [`stack()`] puts them in order.

mod answer;
mod arrival;
mod check;
mod choose;
mod forward;
pub(crate) mod forwarded;
mod grpc;
mod hold;
mod hop;
mod hop_by_hop;
mod identify;
mod limit;
mod locate;
mod lower;
mod open_write;
mod prepare;
mod resend;
mod stack;
mod tee;

pub(crate) use arrival::Arrival;
pub(crate) use forwarded::Public;
pub(crate) use open_write::OpenWrite;
pub(crate) use stack::{Answering, Stack, stack};
