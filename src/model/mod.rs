//! L0: the words both sides share. Data and serde only, no I/O, no actors.

mod clock;
pub mod device;
mod envelope;
pub mod identity;
mod ids;
mod report;
mod resource;
mod session;
mod status;

pub use clock::{unix_ms, unix_secs};
pub use device::DeviceId;
pub use envelope::{Body, Envelope, Header, ObjectResp, Route, group, operation, source};
pub use ids::{InvalidName, NodeName};
pub use report::{MAX_ACTORS_BYTES, Moment, NodeReport};
pub use resource::{ObjectKey, Resource};
pub use session::EndReason;
pub use status::{ErrStatus, Reason, Status, StatusDetails};
