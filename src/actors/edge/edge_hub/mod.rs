//! EdgeHub
mod backoff;
mod certificate;
mod queues;
mod routing;
mod session;
