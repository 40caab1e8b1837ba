//! How a release goes through the rings: who is offered what, who may begin, what a report changes, and
//! when it all stops. Pure: no IO, and time is passed in. Leaves out keeping and sending; `store` and
//! `api` do that with what is decided here.
//!
//! [`plan`](plan::plan) looks at a whole product and says what changes and why the rest waits.
//! [`decide`](host::decide) says what one host gets to hear, [`admit`](admit::admit) gives or refuses the leave
//! to begin, [`fold`](fold::fold) takes in a report, and [`act`] holds what people may do.

pub mod act;
pub mod admit;
pub mod brake;
pub mod counts;
pub mod fold;
pub mod forecast;
pub mod gate;
pub mod hold;
pub mod host;
pub mod hours;
pub mod plan;
pub mod reboot;

pub use act::{ActError, pause, resume, roll_back};
pub use admit::{Admission, Ask, Grant, admit};
pub use counts::Counts;
pub use fold::{
    ProductReport, ReportError, Step, fold, give_back, leave, meet, place, reported, reported_hold,
};
pub use forecast::{Course, Crowd, Forecast, forecast};
pub use hold::{Hold, HoldReason};
pub use host::{Decision, Offer, decide};
pub use hours::HoursNow;
pub use plan::{Change, Plan, ProductView, RingPlan, RingView, Watched, narrows, plan};
pub use reboot::boot_hold;

#[cfg(test)]
mod tests;

/// A fleet in text, for the tests of what is built on the core.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::tests::world::{World, release};
}
