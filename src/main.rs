//! `banyan`: the command line, and what joins the proxy with the connectors.

fn main() {}
