//! All stations in the order in which a request passes them.

use tower::{Layer, Service};

use super::{answer, arrival::Arrival, check, choose, forward, hold, identify, limit, locate, prepare, tee};

/// A request's way, from its head to its answer. Every station is ready at any time, and costs nothing to clone.
pub(crate) type Stack = answer::Station<check::Station<locate::Station<limit::Station<Identified>>>>;

type Identified =
    identify::Station<limit::Station<hold::Station<choose::Station<prepare::Station<tee::Station<forward::Station>>>>>>;

/// The future of one request.
pub(crate) type Answering = <Stack as Service<Arrival>>::Future;

/// The stations, outermost first.
pub(crate) fn stack() -> Stack {
    let layers = (
        answer::Stage,            // turns what comes back, or any error, into the client's answer; counts it
        check::Stage,             // refuses ambiguous framing and hosts; strips what only Banyan may say
        locate::Stage,            // normalises the path, finds the route and the client's address
        limit::Stage::OF_CLIENTS, // refuses who made too many requests
        identify::Stage,          // asks who it is, where the file says whom to ask
        limit::Stage::OF_USERS,   // refuses who made too many requests, by what was answered
        hold::Stage,              // keeps writes waiting while their owner moves
        choose::Stage,            // reads follow the weight, writes follow the owner
        prepare::Stage,           // takes off what belongs to the client's hop, says who the client is
        tee::Stage,               // offers a copy to the side that does not answer
    );
    layers.layer(forward::Station) // to the upstream, again where that is harmless, to the other side where that is allowed
}
