//! Resource quantities (`100m`, `1.5Gi`).

/// A quantity in thousandths of the unit, rounded up as Kubernetes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    pub milli: i128,
}

impl Quantity {
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        Err(text.to_owned())
    }

    /// Whole units, rounded up (bytes of memory).
    #[must_use]
    pub fn ceil(self) -> i64 {
        0
    }
}
