//! Named places beside every durable write of an agent, at which a test lets the process fail, die or stand still.
//! Without the feature `armed` they are nothing: no name, no variable and no branch of them is in the binary.
//! Why these few lines and no library: docs/decisions/0016.

#[cfg(feature = "armed")]
mod armed;
#[cfg(not(feature = "armed"))]
mod unarmed;

#[cfg(feature = "armed")]
pub use armed::{ARM, FOLDER_VARIABLE, PREFIX, Point, TRACE};
#[cfg(not(feature = "armed"))]
pub use unarmed::Point;

/// The point of this name. A name that is not in the list does not compile with `armed`; without it, nothing of the
/// name is left.
#[cfg(feature = "armed")]
#[macro_export]
macro_rules! point {
    ($name:ident) => {
        $crate::Point::$name
    };
}

/// The point of this name: nothing, in a binary that tests do not arm.
#[cfg(not(feature = "armed"))]
#[macro_export]
macro_rules! point {
    ($name:ident) => {
        $crate::Point
    };
}
