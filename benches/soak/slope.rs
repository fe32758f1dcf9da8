//! A line through samples by least squares.

/// `at(x) = start + rate * x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub start: f64,
    pub rate: f64,
    /// Twice the standard error of `rate`, as if the samples knew nothing of each other.
    pub doubt: f64,
}

impl Line {
    /// `None` for fewer than three points, or when all have the same x.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let points: Vec<_> = points.iter().copied().filter(|(_, y)| y.is_finite()).collect();
        if points.len() < 3 {
            return None;
        }
        let n = points.len() as f64;
        let (sum_x, sum_y) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        let (mean_x, mean_y) = (sum_x / n, sum_y / n);
        let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        if spread == 0.0 {
            return None;
        }
        let rate = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
        let start = mean_y - rate * mean_x;
        let rest: f64 = points.iter().map(|(x, y)| (y - start - rate * x).powi(2)).sum();
        Some(Self { start, rate, doubt: 2.0 * (rest / (n - 2.0) / spread).sqrt() })
    }

    pub fn at(&self, x: f64) -> f64 {
        self.start + self.rate * x
    }
}
