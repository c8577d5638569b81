//! Output of the benchmarks: Markdown tables, and medians.

use std::fmt;

/// A table, displayed as Markdown.
#[derive(Clone, Debug)]
pub struct Table {
    columns: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these column headers.
    pub fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self { columns: N, rows: vec![heads.map(str::to_owned).into()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, row) in self.rows.iter().enumerate() {
            writeln!(f, "| {} |", row.join(" | "))?;
            if at == 0 {
                writeln!(f, "|{}", "---|".repeat(self.columns))?;
            }
        }
        Ok(())
    }
}

/// Returns the median; 0 if `values` is empty.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Widest spread of a ratio that is printed: the distance of its quartiles, relative to the median.
pub const SPREAD: f64 = 0.25;

/// Returns the median of ratios, with `digits` digits after the point, if half of them are within [`SPREAD`]; otherwise the
/// quartiles, which say that the machine was too busy for a ratio.
pub fn ratio(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let quartile = |quarters: usize| values.get(values.len() * quarters / 4).copied().unwrap_or_default();
    let (low, middle, high) = (quartile(1), quartile(2), quartile(3));
    if (high - low) > SPREAD * middle {
        format!("{low:.digits$} to {high:.digits$}")
    } else {
        format!("{middle:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_printed_if_half_of_the_values_are_close() {
        assert_eq!(ratio([0.99, 1.0, 1.01, 1.02, 9.0], 2), "1.01");
        assert_eq!(ratio([0.5, 1.0, 1.5, 2.0], 1), "1.0 to 2.0");
    }
}
